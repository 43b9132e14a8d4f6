"""Models and options that this vLLM or this GPU cannot run."""

from engines.causes.base import divisor, known, without

_OTHER_MODEL = "Take another model, or have an admin set a newer docker_image."

KNOWN = [
    known(
        "weights_wrong",
        r"Following weights were not initialized from checkpoint",
        "The model's files lack weights that its config.json speaks of.",
        "Take another version of the model, or have an admin set a docker_image that knows this one.",
    ),
    known(
        "model_unsupported",
        r"Model architectures? \[?'?(?P<name>[\w', ]+?)'?\]? (?:are not supported|is not supported|was supported)",
        "This vLLM does not know models of the kind {name}.",
        _OTHER_MODEL,
    ),
    known(
        "model_unsupported",
        r"(?P<name>\w+) has no vLLM implementation",
        "This vLLM does not know models of the kind {name}.",
        _OTHER_MODEL,
    ),
    known(
        "model_unsupported",
        r".{0,80}model type `(?P<name>[\w-]+)` but Transformers does not recognize",
        "This vLLM does not know models of the kind {name}.",
        _OTHER_MODEL,
    ),
    known(
        "needs_remote_code",
        r"The repository .{1,300} contains custom code which must be executed"
        r"|Loading .{1,300} requires you to execute the (?:configuration|modeling|model) file"
        r"|Failed to load the model config\. If the model is a custom model",
        "The model brings program code of its own, which this portal does not run.",
        "Take another model, or have an admin allow it (trust_remote_code) after reading that code.",
    ),
    known(
        "gpu_unsupported",
        r"(?P<words>[Tt]he quantization method \S+ is not supported for the current GPU[^\[\n]*"
        r"|\('Quantization scheme is not supported for ', 'the current GPU[^\n]*"
        r"|CUDA error: no kernel image is available for execution on the device"
        r"|FlashAttention only supports Ampere GPUs or newer[^\n]*"
        r"|GPUs with compute capability below [\d.]+ are not supported[^\n]*"
        r"|.{0,60}capability .{0,60}sm_\d+ is not compatible with the current PyTorch[^\n]*)",
        "This GPU cannot run it: {words}",
        "Take a model or QUANTIZATION that this GPU supports, or have an admin set a docker_image made for it.",
    ),
    known(
        "quantization_wrong",
        r"(?P<words>Unknown quantization method[^\[\n]*|Quantization method specified in the model config[^\[\n]*"
        r"|[Tt]he quantization method \S+ is not supported[^\[\n]*|Cannot find the config file for \w+"
        r"|\S+ quantization is currently not supported[^\[\n]*)",
        "The quantization does not fit: {words}",
        "Start it without QUANTIZATION, which lets vLLM read it from the model.",
        without("quantization"),
    ),
    known(
        "quantization_misaligned",
        r"The (?:input|output) size is not aligned with the quantized weight shape",
        "The quantized weights cannot be split among that many GPUs.",
        "Start it with a smaller TENSOR_PARALLEL_SIZE.",
    ),
    known(
        "tensor_parallel_wrong",
        r"(?P<words>Total number of attention heads \((?P<heads>\d{1,9})\) must be divisible by tensor parallel size "
        r"\((?P<asked>\d{1,9})\))",
        "TENSOR_PARALLEL_SIZE does not fit this model: {words}.",
        "Start it with a TENSOR_PARALLEL_SIZE that divides {heads}.",
        divisor,
    ),
    known(
        "dtype_unsupported",
        r"Bfloat16 is only supported on GPUs with compute capability",
        "The GPU is too old for this model's number format.",
        "An admin adds --dtype=half to engine_extra_args.",
    ),
    known(
        "tokenizer_unusable",
        r"Can't load tokenizer for '|Couldn't instantiate the backend tokenizer|Failed to load the tokenizer",
        "The tokenizer cannot be loaded.",
        "Start it with a TOKENIZER that fits the model.",
        without("tokenizer"),
    ),
]
