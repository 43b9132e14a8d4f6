"""LoRA adapters that this vLLM cannot load onto the model: it ends then, for it loads them before it listens."""

from engines.causes.base import known, within

_LOADING = r"(?:Call to add_lora method failed: )?(?:Worker failed with error ')?"
"""What vLLM puts before an error of a worker; an engine without workers of their own leaves it out."""
_FOR_THIS_MODEL = "Take an adapter that was made for this very model, or start it with the adapter's own model."

KNOWN = [
    known(
        "adapter_rank_too_large",
        rf"{_LOADING}LoRA rank (?P<rank>\d+) is greater than max_lora_rank (?P<most>\d+)",
        "An adapter's rank is {rank}, and this engine takes {most} at most.",
        "An admin takes --max-lora-rank out of engine_extra_args: the portal chooses one that is large enough.",
    ),
    known(
        "adapter_missing",
        rf"(?:{_LOADING}Loading lora (?P<name>\S{{1,64}}) failed: No adapter found for )",
        "There is no adapter {name} where the engine looks for it.",
        "Correct the adapter's repository or folder: it holds adapter_config.json and adapter_model.safetensors.",
    ),
    known(
        "adapter_missing",
        rf"{_LOADING}\S{{1,400}} doesn't contain tensors",
        "An adapter has no weights that vLLM loads.",
        "Take one that holds adapter_model.safetensors.",
    ),
    known(
        "adapter_mismatch",
        rf"{_LOADING}While loading \S{{1,400}}, expected target modules in .{{1,1500}}but received \[?"
        r"(?P<modules>[^\]\n]{1,120})",
        "An adapter was made for another model: this one has no {modules} that could be adapted.",
        _FOR_THIS_MODEL,
    ),
    known(
        "adapter_mismatch",
        "(?:"
        + within("set_lora", r"The size of tensor a \(\d+\) must match the size of tensor b \(\d+\)")
        + rf"|{_LOADING}The size of tensor a \(\d+\) must match the size of tensor b \(\d+\).{{0,80}}please check)",
        "An adapter was made for another model: its weights do not have this one's sizes.",
        _FOR_THIS_MODEL,
    ),
    known(
        "adapter_unsupported",
        rf"{_LOADING}(?P<words>(?:vLLM does not (?:yet )?support (?:DoRA|LoRA bias|init_lora_weights|Activated LoRA"
        r"|layer_replication|block-diagonal LoRA|QALoRA)|vLLM only supports modules_to_save"
        r"|Adapter bias is not supported).{0,120}?)(?:'?, please check|\. LoRA rank|$)",
        "An adapter uses what this vLLM cannot load: {words}.",
        "Take an adapter that is a plain LoRA.",
    ),
    known(
        "adapters_unsupported",
        r"(?:Model <class '[\w.]*?(?P<name>\w+)'> is not supported for LoRA"
        r"|(?P<kind>\w+) does not support LoRA yet\.)",
        "vLLM cannot load adapters onto this model ({name}{kind}).",
        "Start it without adapters, or take another model.",
        lambda groups: {"adapters": []},
    ),
]
