"""Files of the model that cannot be had, read or kept."""

from engines.causes.base import again, known

KNOWN = [
    known(
        "model_gated",
        r"(?:[\w.]+\.)?GatedRepoError|Cannot access gated repo|You are trying to access a gated repo",
        "The model is gated, and the token given has no access to it.",
        "Ask for access on the model's page, then start it with a HUGGING_FACE_HUB_TOKEN of that account.",
    ),
    known(
        "token_invalid",
        r"Invalid user token|Invalid credentials in Authorization header|User Access Token .{0,100} is expired",
        "Hugging Face does not accept the token.",
        "Make a new token at huggingface.co/settings/tokens and start the engine with it.",
    ),
    known(
        "model_not_cached",
        r"Cannot find an appropriate cached snapshot folder.{0,100}outgoing traffic has been disabled"
        r"|Cannot find the requested files in the disk cache|Cannot reach \S+ offline mode is enabled",
        "The model is not on this machine, and engines may not download (hf_offline).",
        "An admin downloads it into the cache, or switches hf_offline off.",
    ),
    known(
        "model_not_found",
        r"(?:[\w.]+\.)?(?:RepositoryNotFoundError|RevisionNotFoundError)"
        r"|\S+ is not a local folder and is not a valid model identifier",
        "There is no such model, or it is private and the token given may not see it.",
        "Correct Model, or start it with a HUGGING_FACE_HUB_TOKEN that may see it.",
    ),
    known(
        "model_folder_missing",
        r"(?:[\w.]+\.)?HFValidationError: Repo id must be in the form.*?: '(?P<path>/[^']*)'",
        "The model's folder {path} is not there, where the engine runs.",
        "Copy the model there.",
    ),
    known(
        "disk_full",
        r".{0,400}No space left on device",
        "The disk is full.",
        "Make room on the machine that runs engines.",
        again,
    ),
    known(
        "hub_unreachable",
        r"We couldn't connect to '?https?://|An error happened while trying to locate the files? on the Hub"
        r"|(?:[\w.]+\.)?(?:ConnectionError|ConnectTimeout|ReadTimeout|ConnectError|ProxyError|SSLError): "
        r".{0,300}(?:huggingface|NameResolutionError|Name or service not known|name resolution|hf\.co)",
        "The engine cannot reach the Hugging Face hub.",
        "Check this machine's network; a mirror is set with hf_endpoint.",
        again,
    ),
    known(
        "cache_not_writable",
        r"\[Errno (?:13|30)\] (?:Permission denied|Read-only file system): '(?P<path>[^']*)'",
        "The engine may not write where it has to: {path}",
        "An admin gives the engines' user the right to write to hf_cache and vLLM's cache folder.",
    ),
    known(
        "weights_broken",
        r"(?:[\w.]+\.)?SafetensorError|Error while deserializing header",
        "A file of the model's weights is broken or was not downloaded to its end.",
        "An admin deletes the model from the cache, so that it is downloaded anew.",
    ),
    known(
        "no_weights",
        r"Cannot find any model weights|.{0,200}no file named (?:pytorch_model|model\.safetensors)",
        "There are no weights in this model's repository or folder that vLLM can load.",
        "Take a model with safetensors files.",
    ),
    known(
        "no_config",
        r"Could not detect config format|\S+ does not appear to have a file named config\.json"
        r"|No supported config format found in",
        "There is no config.json in this model's repository or folder.",
        "Take a repository that holds a model for Transformers or vLLM; GGUF and adapters alone are none.",
    ),
]
