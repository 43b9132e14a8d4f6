"""Why an engine ended: its log and what the launcher saw, to a cause and what to do about it. Pure.

The last lines of vLLM's log are rarely the cause ("Engine core initialization failed. See root cause above."). So known
causes are looked for first, the most telling before the more general, and only then the first line that reads like an
error counts.
"""

import re
from dataclasses import dataclass

from engines.launchers.base import Observation, Status
from vllm_portal.log import redact

LONGEST_CAUSE = 600


@dataclass(frozen=True)
class Diagnosis:
    """`code` is for programs, `cause` one sentence for people, `advice` what to change ("" where nobody knows)."""

    code: str
    cause: str
    advice: str = ""


@dataclass(frozen=True)
class Known:
    """`cause` and `advice` may name the pattern's groups."""

    code: str
    pattern: re.Pattern[str]
    cause: str
    advice: str


def _known(code: str, pattern: str, cause: str, advice: str) -> Known:
    return Known(code, re.compile(pattern), cause, advice)


_LESS_LENGTH = (
    "Start it with MAX_MODEL_LEN {possible} or less, on more GPUs (TENSOR_PARALLEL_SIZE), or a smaller model."
)
_OTHER_MODEL = "Take another model, or have an admin set a newer docker_image."

KNOWN = [
    _known(
        "max_model_len_too_large",
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
        r"\([a-z_]+=(?P<own>\d+)",
        "MAX_MODEL_LEN {asked} is more than this model can take, which is {own}.",
        "Start it with MAX_MODEL_LEN {own} or less, or without.",
    ),
    _known(
        "kv_cache_too_small",
        r"To serve at least one request with the model's max seq len \((?P<asked>\d+)\).*?"
        r"estimated maximum model length is (?P<possible>\d+)",
        "There is not enough memory left for one request of {asked} tokens; it suffices for {possible}.",
        _LESS_LENGTH,
    ),
    _known(
        "kv_cache_too_small",
        r"max seq len \((?P<asked>\d+)\) is larger than the maximum number of tokens that can be stored in KV cache "
        r"\((?P<possible>\d+)\)",
        "There is not enough memory left for one request of {asked} tokens; it suffices for {possible}.",
        _LESS_LENGTH,
    ),
    _known(
        "kv_cache_too_small",
        r"No available memory for the cache blocks",
        "The model leaves no memory for requests.",
        "Start it on more GPUs (TENSOR_PARALLEL_SIZE), with QUANTIZATION, or take a smaller model.",
    ),
    _known(
        "gpu_memory_in_use",
        r"Free memory on device \S* ?\((?P<free>[\d.]+)/(?P<all>[\d.]+) GiB\) on startup is less than desired",
        "Only {free} of the GPU's {all} GiB are free; something else uses it.",
        "Stop what uses the GPU (nvidia-smi shows it), or have an admin lower --gpu-memory-utilization.",
    ),
    _known(
        "gpu_out_of_memory",
        r"(?:CUDA|HIP) out of memory|torch\.(?:cuda\.)?OutOfMemoryError|CUDA error: out of memory",
        "The model does not fit into the GPU's memory.",
        "Start it on more GPUs (TENSOR_PARALLEL_SIZE), with a smaller MAX_MODEL_LEN or QUANTIZATION, "
        "or take a smaller model.",
    ),
    _known(
        "host_out_of_memory",
        r"Available memory on node \S+ \((?P<free>[\d.]+)/(?P<all>[\d.]+) GiB\) on startup is less than desired",
        "Only {free} of this machine's {all} GiB of memory are free.",
        "Stop other engines, or have an admin lower cpu_kv_cache_gib.",
    ),
    _known(
        "shm_too_small",
        r"Insufficient space in /dev/shm[^:]*: (?P<wanted>[\d.]+ \w+) required, (?P<free>[\d.]+ \w+) free",
        "The container's shared memory is too small: {wanted} are needed, {free} are free.",
        "An admin raises docker_shm_size.",
    ),
    _known(
        "model_gated",
        r"GatedRepoError|Cannot access gated repo|You are trying to access a gated repo",
        "The model is gated, and the token given has no access to it.",
        "Ask for access on the model's page, then start it with a HUGGING_FACE_HUB_TOKEN of that account.",
    ),
    _known(
        "token_invalid",
        r"Invalid user token|Invalid credentials in Authorization header",
        "Hugging Face does not accept the token.",
        "Make a new token at huggingface.co/settings/tokens and start the engine with it.",
    ),
    _known(
        "model_not_cached",
        r"outgoing traffic has been disabled|Cannot find the requested files in the disk cache",
        "The model is not on this machine, and engines may not download (hf_offline).",
        "An admin downloads it into the cache, or switches hf_offline off.",
    ),
    _known(
        "model_not_found",
        r"RepositoryNotFoundError|is not a local folder and is not a valid model identifier",
        "There is no such model, or it is private and the token given may not see it.",
        "Correct Model, or start it with a HUGGING_FACE_HUB_TOKEN that may see it.",
    ),
    _known(
        "hub_unreachable",
        r"We couldn't connect to '?https?://|NameResolutionError|Failed to resolve 'huggingface",
        "The engine cannot reach the Hugging Face hub.",
        "Check this machine's network; a mirror is set with hf_endpoint.",
    ),
    _known(
        "model_folder_missing",
        r"HFValidationError: Repo id must be in the form.*?: '(?P<path>/[^']*)'",
        "The model's folder {path} is not there, where the engine runs.",
        "Copy the model there.",
    ),
    _known(
        "no_weights",
        r"Cannot find any model weights|no file named (?:pytorch_model|model\.safetensors)",
        "There are no weights in this model's repository or folder that vLLM can load.",
        "Take a model with safetensors files.",
    ),
    _known(
        "model_unsupported",
        r"Model architectures? \[?'?(?P<name>[\w', ]+?)'?\]? (?:are|is) not supported",
        "This vLLM does not know models of the kind {name}.",
        _OTHER_MODEL,
    ),
    _known(
        "model_unsupported",
        r"model type `(?P<name>[\w-]+)` but Transformers does not recognize",
        "This vLLM does not know models of the kind {name}.",
        _OTHER_MODEL,
    ),
    _known(
        "needs_remote_code",
        r"trust[-_]remote[-_]code=True|contains custom code which must be executed",
        "The model brings program code of its own, which this portal does not run.",
        "Take another model, or have an admin allow it (trust_remote_code) after reading that code.",
    ),
    _known(
        "quantization_wrong",
        r"(?P<words>Unknown quantization method[^\[\n]*|Quantization method specified in the model config[^\[\n]*"
        r"|[Tt]he quantization method \S+ is not supported[^\[\n]*|Cannot find the config file for \w+)",
        "The quantization does not fit: {words}",
        "Start it without QUANTIZATION, which lets vLLM read it from the model.",
    ),
    _known(
        "tensor_parallel_wrong",
        r"World size \((?P<asked>\d+)\) is larger than the number of available GPUs \((?P<there>\d+)\)",
        "TENSOR_PARALLEL_SIZE {asked} is more than the {there} GPUs there are.",
        "Start it with TENSOR_PARALLEL_SIZE {there} or less.",
    ),
    _known(
        "tensor_parallel_wrong",
        r"(?P<words>Total number of attention heads \(\d+\) must be divisible by tensor parallel size \(\d+\))",
        "TENSOR_PARALLEL_SIZE does not fit this model: {words}.",
        "Start it with another TENSOR_PARALLEL_SIZE, such as 1, 2 or 4.",
    ),
    _known(
        "dtype_unsupported",
        r"Bfloat16 is only supported on GPUs with compute capability",
        "The GPU is too old for this model's number format.",
        "An admin adds --dtype=half to engine_extra_args.",
    ),
    _known(
        "no_gpu",
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver|No HIP GPUs are available"
        r"|libcuda\.so\.1: cannot open|CUDA driver version is insufficient",
        "vLLM finds no GPU that it can use on this machine.",
        "Install the GPU's driver, or set device to cpu.",
    ),
    _known(
        "tokenizer_unusable",
        r"Can't load tokenizer for '|Couldn't instantiate the backend tokenizer",
        "The tokenizer cannot be loaded.",
        "Start it with a TOKENIZER that fits the model.",
    ),
    _known(
        "no_compiler",
        r"No working C\+\+ compiler found|InvalidCxxCompiler|Failed to find C compiler",
        "vLLM wants to compile and finds no compiler.",
        "Install g++ where engines run, or have an admin add --enforce-eager to engine_extra_args.",
    ),
    _known("disk_full", r"No space left on device", "The disk is full.", "Make room on the machine that runs engines."),
    _known(
        "port_in_use",
        r"[Aa]ddress already in use",
        "The engine's port is taken by another program.",
        "Start it again; it gets another port.",
    ),
    _known(
        "arguments_wrong",
        r"error: (?P<words>unrecognized arguments: .+|argument \S+: .+)",
        "This vLLM does not take what it was started with: {words}",
        "An admin corrects engine_extra_args, or sets a docker_image that knows the flag.",
    ),
    _known(
        "vllm_broken",
        r"(?P<words>(?:ModuleNotFoundError|PackageNotFoundError|ImportError): .+)",
        "vLLM is not properly installed where the engine runs: {words}",
        "An admin repairs that installation or image.",
    ),
]

_ENGINE_DIED = re.compile(r"EngineDeadError|EngineCore encountered an issue|died unexpectedly")
_ERROR = re.compile(r"(?P<words>(?:[A-Za-z_][\w.]*(?:Error|Exception)|Value error)\b[:,] .+)")
_NO_CAUSE = re.compile(r"See root cause above|^\s*(?:File \"|raise )|EngineDeadError")
# A log's harmless lines quote errors ("can cause errors like `OSError: …`") and options ("trust_remote_code=True").
_HARMLESS = re.compile(r"\b(?:WARNING|INFO|DEBUG) \d\d-\d\d |FutureWarning|UserWarning")
_PREFIX = re.compile(r"^\([^)]*\)\s+(?:ERROR \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?")


def diagnose(log: str, seen: Observation) -> Diagnosis:
    """Why it is no longer there. `log` may be "" or have its middle left out; `seen` is EXITED or GONE."""
    if seen.oom_killed:
        return Diagnosis(
            "out_of_memory",
            "The system ended it because it used more memory than it may.",
            "Take a smaller model or MAX_MODEL_LEN, or have an admin raise docker_memory.",
        )
    lines = [_PREFIX.sub("", line) for line in re.split(r"[\r\n]+", log) if not _HARMLESS.search(line)]
    text = "\n".join(lines)
    return _from_known(text) or _from_first_error(lines) or _from_end(text, seen)


def stalled(seconds: float, doing: str) -> Diagnosis:
    """Its log has said nothing new for so long while it came up; `doing`: what it said last."""
    last = f" It said last: {doing}." if doing else ""
    return Diagnosis(
        "stalled",
        f"It made no progress for {seconds:.0f} s while it came up.{last}",
        "Look at its log. A slow disk or network needs a larger load_stall_seconds.",
    )


def _from_known(text: str) -> Diagnosis | None:
    for known in KNOWN:
        if found := known.pattern.search(text):
            groups = {name: value.strip(" .") for name, value in found.groupdict("").items()}
            return Diagnosis(known.code, _clean(known.cause.format(**groups)), known.advice.format(**groups))
    return None


def _from_first_error(lines: list[str]) -> Diagnosis | None:
    for line in lines:
        if (found := _ERROR.search(line)) and not _NO_CAUSE.search(line):
            return Diagnosis("vllm_error", _clean(found["words"]), "Look at its log.")
    return None


def _from_end(text: str, seen: Observation) -> Diagnosis:
    if _ENGINE_DIED.search(text):
        return Diagnosis(
            "engine_died",
            "A worker of the engine died, and the engine ended with it.",
            "Start it again. If that happens more often, look at its log and at the system's.",
        )
    if seen.exit_code == 137:
        return Diagnosis(
            "killed",
            "It was killed (signal 9), which is what the system does when memory runs out.",
            "Look at the machine's free memory; take a smaller model or MAX_MODEL_LEN.",
        )
    if seen.status is Status.GONE:
        return Diagnosis(
            "removed",
            "The container or process was removed from outside the portal.",
            "Start it again; end engines through the portal.",
        )
    if seen.message:
        return Diagnosis("ended", _clean(f"It ended: {seen.message}."), "Look at its log.")
    code = "" if seen.exit_code is None else f" with exit code {seen.exit_code}"
    return Diagnosis("ended", f"It ended{code} and did not say why.", "Look at its log.")


def one_line(text: str) -> str:
    """What came from outside as one line that any database takes: nothing in it but characters one can see."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _clean(cause: str) -> str:
    """One line without secrets, not too long."""
    line = redact(one_line(cause))
    return line if len(line) <= LONGEST_CAUSE else line[: LONGEST_CAUSE - 1] + "…"
