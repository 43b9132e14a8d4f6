"""GPUs, drivers and programs of the machine."""

from engines.causes.base import again, fewer_gpus, known

KNOWN = [
    known(
        "not_enough_gpus",
        r"World size \((?P<asked>\d{1,9})\) is larger than the number of available GPUs \((?P<there>[1-9]\d{0,8})\)",
        "TENSOR_PARALLEL_SIZE {asked} is more than the {there} GPUs there are.",
        "Start it with TENSOR_PARALLEL_SIZE {there} or less.",
        fewer_gpus,
    ),
    known(
        "not_enough_gpus",
        r"CUDA error: invalid device ordinal|The number of required GPUs exceeds the total number of available GPUs",
        "TENSOR_PARALLEL_SIZE is more than the GPUs there are.",
        "Start it with a smaller TENSOR_PARALLEL_SIZE.",
    ),
    known(
        "driver_too_old",
        r"The NVIDIA driver on your system is too old|CUDA driver version is insufficient"
        r"|Unexpected error from cudaGetDeviceCount\(\).{0,200}Error 80[34]:"
        r"|CUDA error: the provided PTX was compiled with an unsupported toolchain",
        "The GPU's driver is too old for this vLLM, or does not fit the image.",
        "An admin updates the driver, or sets a docker_image made for an older CUDA.",
    ),
    known(
        "gpu_not_ready",
        r".{0,200}Error 802: system not yet initialized",
        "The GPUs are not ready: the machine's fabric manager does not run.",
        "An admin starts nvidia-fabricmanager in the version of the driver.",
        again,
    ),
    known(
        "no_gpu",
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver|No HIP GPUs are available"
        r"|World size \(\d+\) is larger than the number of available GPUs \(0\)"
        r"|libcuda\.so\.1: cannot open",
        "vLLM finds no GPU that it can use on this machine.",
        "Install the GPU's driver, or set device to cpu.",
    ),
    known(
        "no_compiler",
        r"(?:[\w.]+\.)?InvalidCxxCompiler|No working C\+\+ compiler found|Failed to find C compiler",
        "vLLM wants to compile and finds no compiler.",
        "Install g++ where engines run, or have an admin add --enforce-eager to engine_extra_args.",
    ),
    known(
        "port_in_use",
        r".{0,200}[Aa]ddress already in use",
        "The engine's port is taken by another program.",
        "Start it again; it gets another port.",
        again,
    ),
    known(
        "arguments_wrong",
        r"[\w. ]{0,60}: error: (?P<words>unrecognized arguments: .+|argument \S+: .+)",
        "This vLLM does not take what it was started with: {words}",
        "An admin corrects engine_extra_args, or sets a docker_image that knows the flag.",
    ),
    known(
        "nccl_failed",
        r"(?P<words>NCCL error: [^\n]{0,200}|NCCL error in: [^\n]{0,200}|ncclSystemError[^\n]{0,200})",
        "The GPUs cannot work together: {words}",
        "Start it on one GPU if it fits there; an admin looks at docker_shm_size and NCCL's lines in the log.",
        again,
        serving=True,
    ),
    known(
        "vllm_broken",
        r"(?P<words>(?:ModuleNotFoundError|PackageNotFoundError|(?:[\w.]+\.)?ImportError): .+)",
        "vLLM is not properly installed where the engine runs: {words}",
        "An admin repairs that installation or image.",
    ),
]
