"""What Docker's error messages mean for an engine. Pure. None: nothing that a change of the engine would cure."""

import re

from engines.errors import StartFailed

_NO_GPU = re.compile(
    r"could not select device driver|nvidia-container|libnvidia|nvml|unknown or invalid runtime name: nvidia"
    r"|unknown device|device \"?/dev/(kfd|dri)|unable to find group video",
    re.IGNORECASE,
)
_OLD_DRIVER = re.compile(r"unsatisfied condition: \S+, please update your driver")
_NO_IMAGE = re.compile(
    r"no such image|pull access denied|manifest unknown|manifest for .* not found|not found: manifest"
    r"|repository .* not found|does not exist|unauthorized|denied|name unknown|no matching manifest",
    re.IGNORECASE,
)
_NO_REGISTRY = re.compile(
    r"dial tcp|no such host|i/o timeout|tls handshake|x509|connection (refused|reset)|network is unreachable"
    r"|client\.timeout|deadline exceeded|\beof\b|server misbehaving|gave http response",
    re.IGNORECASE,
)


def start_failure(message: str, image: str) -> StartFailed | None:
    """Why a container could not be made or started."""
    if _OLD_DRIVER.search(message):
        return StartFailed(
            "driver_too_old",
            f"The GPU's driver is too old for {image}: {_short(message)}",
            "An admin updates the driver, or sets a docker_image made for an older CUDA.",
        )
    if _NO_GPU.search(message):
        return StartFailed(
            "no_gpu_runtime",
            f"Docker cannot give a GPU to a container on this machine: {_short(message)}",
            "Install the GPU's driver and the NVIDIA Container Toolkit (ROCm: the kernel driver), "
            "or set device to cpu with a CPU image.",
        )
    if "no such image" in message.lower():
        return missing(image, message)
    if re.search(r"network \S+ not found|could not find the network", message, re.IGNORECASE):
        return StartFailed(
            "no_network",
            f"the Docker network of the engines does not exist: {_short(message)}",
            "Make it with `docker network create`, or take docker_network out of the configuration.",
        )
    if "source path does not exist" in message:
        return StartFailed(
            "no_model_folder",
            f"the model's folder is not on the machine that runs Docker: {_short(message)}",
            "Copy it there, under the same path.",
        )
    if "executable file not found" in message or "exec format error" in message:
        return StartFailed(
            "image_unusable",
            f"{image} does not run as a vLLM engine here: {_short(message)}",
            "Set docker_image to an image whose entrypoint is `vllm serve`, for this machine's processor.",
        )
    return _disk_full(message)


def pull_failure(message: str, image: str) -> StartFailed | None:
    """Why an image did not come."""
    if _NO_REGISTRY.search(message):
        return StartFailed(
            "registry_unreachable",
            f"the image {image} is not on this machine and its registry cannot be reached: {_short(message)}",
            f"Connect the machine, or bring the image by `docker load`; then `docker image inspect {image}` finds it.",
        )
    if _NO_IMAGE.search(message):
        return missing(image, message)
    return _disk_full(message)


def by_id_missing(image: str) -> StartFailed:
    """No registry is asked for an id: it would take it for a name and a tag."""
    return StartFailed(
        "image_missing",
        f"the image {image} is not on this machine any more, and cannot be pulled by its id",
        "Bring it by `docker pull` of a name that means it or `docker load`, or start without this recipe.",
    )


def missing(image: str, message: str) -> StartFailed:
    return StartFailed(
        "image_missing",
        f"there is no image {image} for this machine: {_short(message)}",
        "Correct docker_image; for a private registry run `docker login` as the portal's user.",
    )


def _disk_full(message: str) -> StartFailed | None:
    if "no space left on device" not in message:
        return None
    return StartFailed(
        "disk_full", f"Docker's disk is full: {_short(message)}", "`docker system df` says what uses it."
    )


def _short(message: str) -> str:
    return " ".join(message.split())[:300].rstrip(".")
