"""Too little memory: of the GPU, of the machine, of the container. And GPUs that fail."""

from engines.causes.base import OUT_OF_MEMORY, again, known, length, within

_LESS_LENGTH = (
    "Start it with MAX_MODEL_LEN {possible} or less, on more GPUs (TENSOR_PARALLEL_SIZE), or a smaller model."
)
_NOT_ENOUGH_LENGTH = "There is not enough memory left for one request of {asked} tokens; it suffices for {possible}."

KNOWN = [
    known(
        "max_model_len_too_large",
        r"User-specified max_model_len \((?P<asked>\d{1,9})\) is greater than the derived max_model_len "
        r"\([a-z_]+=(?P<own>[1-9]\d{0,8})",
        "MAX_MODEL_LEN {asked} is more than this model can take, which is {own}.",
        "Start it with MAX_MODEL_LEN {own} or less, or without.",
        length("own"),
    ),
    known(
        "kv_cache_too_small",
        r"To serve at least one request with the models?'s max seq len \((?P<asked>\d{1,9})\).*?"
        r"estimated maximum model length is (?P<possible>[1-9]\d{0,8})\b",
        _NOT_ENOUGH_LENGTH,
        _LESS_LENGTH,
        length("possible"),
    ),
    known(
        "kv_cache_too_small",
        r"The model's max seq len \((?P<asked>\d{1,9})\) is larger than the maximum number of tokens that can be "
        r"stored in KV cache \((?P<possible>[1-9]\d{0,8})\)",
        _NOT_ENOUGH_LENGTH,
        _LESS_LENGTH,
        length("possible"),
    ),
    known(
        "kv_cache_too_small",
        r"To serve at least one request with the models?'s max seq len \((?P<asked>\d{1,9})\)",
        "There is not enough memory left for one request of {asked} tokens.",
        "Start it with a smaller MAX_MODEL_LEN, on more GPUs (TENSOR_PARALLEL_SIZE), or a smaller model.",
    ),
    known(
        "kv_cache_too_small",
        r"No available memory for the cache blocks",
        "The model leaves no memory for requests.",
        "Start it on more GPUs (TENSOR_PARALLEL_SIZE), with QUANTIZATION, or take a smaller model.",
    ),
    known(
        "gpu_memory_in_use",
        r"Free memory on device \S* ?\((?P<free>[\d.]+)/(?P<all>[\d.]+) GiB\) on startup is less than desired",
        "Only {free} of the GPU's {all} GiB are free; something else uses it.",
        "Stop what uses the GPU (nvidia-smi shows it), or have an admin lower --gpu-memory-utilization.",
        again,
    ),
    known(
        "gpu_fault",
        r"(?P<words>CUDA error: (?:uncorrectable ECC error encountered|unspecified launch failure"
        r"|an illegal memory access was encountered|unknown error|hardware stack error)"
        r"|.{0,80}GPU has fallen off the bus|.{0,80}Unable to determine the device handle for GPU.{0,40})",
        "The GPU or its driver has failed: {words}",
        "An admin looks at `dmesg` (lines with Xid) and nvidia-smi, and resets the GPU or restarts the machine.",
        again,
        serving=True,
    ),
    known(
        "warm_up_out_of_memory",
        r"CUDA out of memory occurred when warming up (?:sampler|pooler)",
        "The model was loaded, but its GPU had no memory left for a first batch.",
        "Start it on more GPUs, or have an admin add a smaller --max-num-seqs to engine_extra_args.",
    ),
    known(
        "warm_up_out_of_memory",
        within("capture_model", OUT_OF_MEMORY),
        "The model was loaded, but its GPU had no memory left for CUDA graphs.",
        "Have an admin add --enforce-eager or a smaller --gpu-memory-utilization to engine_extra_args.",
    ),
    known(
        "weights_too_large",
        within("load_model", OUT_OF_MEMORY),
        "The model's weights do not fit into the GPU's memory.",
        "Start it on more GPUs (TENSOR_PARALLEL_SIZE), with QUANTIZATION, or take a smaller model.",
    ),
    known(
        "gpu_out_of_memory",
        OUT_OF_MEMORY,
        "The model does not fit into the GPU's memory.",
        "Start it on more GPUs (TENSOR_PARALLEL_SIZE), with a smaller MAX_MODEL_LEN or QUANTIZATION, "
        "or take a smaller model.",
        serving=True,
    ),
    known(
        "host_out_of_memory",
        r"Available memory on node \S+ \((?P<free>[\d.]+)/(?P<all>[\d.]+) GiB\) on startup is less than desired",
        "Only {free} of this machine's {all} GiB of memory are free.",
        "Stop other engines, or have an admin lower cpu_kv_cache_gib.",
        again,
    ),
    known(
        "shm_too_small",
        r"Insufficient space in /dev/shm[^:\n]*: (?P<wanted>[\d.]+ \w+) required, (?P<free>[\d.]+ \w+) free",
        "The container's shared memory is too small: {wanted} are needed, {free} are free.",
        "An admin raises docker_shm_size.",
        serving=True,
    ),
    known(
        "shm_too_small",
        r"\S+ \[\d+\] .{0,60}NCCL WARN Error while creating shared memory segment"
        r"|.{0,200}No space left on device: '/(?:dev/shm/|psm_)",
        "The container's shared memory is too small.",
        "An admin raises docker_shm_size.",
        serving=True,
    ),
]
