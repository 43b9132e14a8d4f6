"""An engine's container, as the body of Docker's create call. Pure.

The engine is a hostile zone: a model can bring code of its own. It gets no capability that its work does not need, no
way to get more, limits on memory and processes, no other container's memory segments, and a port that only this
machine reaches, or none at all.
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.errors import StartFailed
from engines.launchers.base import LaunchSpec
from engines.vllm_command import CONTAINER_COMPILE_CACHE, CONTAINER_HF_CACHE, compile_cache_env

PORT = 8000
PORT_KEY = f"{PORT}/tcp"
TOKEN_PATH = "/run/secrets/hf_token"  # noqa: S105 (where it is, not what it is)
LABEL_PORTAL = "vllm-portal.portal"
LABEL_ENGINE = "vllm-portal.engine"
LABEL_GENERATION = "vllm-portal.generation"

_SIZE = re.compile(r"(\d+)\s*([bkmgt]?)b?\Z", re.IGNORECASE)
_FACTORS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class DockerSettings:
    portal_id: str
    log_dir: Path
    """The logs of engines that are gone, as <name>.log."""
    hf_cache: str = "~/.cache/huggingface"
    """A folder of this machine (with a slash in it), or the name of a Docker volume."""
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Where the portal is a container: the name of the volume that it has at a folder, by folder."""
    shm_size: str = "1g"
    memory: str | None = None
    pids_limit: int = 4096
    network: str | None = None
    """None: a port on 127.0.0.1 that Docker picks. Else engines join this network and publish nothing."""
    pull_timeout_s: float = 3600
    environment: Mapping[str, str] = field(default_factory=dict)
    """Where DOCKER_HOST and its like are looked up. No engine gets any of it."""


def labels(spec: LaunchSpec) -> dict[str, str]:
    return {
        LABEL_PORTAL: spec.portal_id,
        LABEL_ENGINE: spec.engine_id,
        LABEL_GENERATION: str(spec.generation),
    }


def cache_folder(hf_cache: str) -> Path | None:
    """The folder that hf_cache means, or None when it is a volume's name."""
    return Path(hf_cache).expanduser() if "/" in hf_cache or hf_cache.startswith("~") else None


def make_cache_folder(settings: DockerSettings) -> None:
    """As the portal's user, else Docker makes it as root. A portal that cannot leaves it to Docker."""
    folder = cache_folder(settings.hf_cache)
    if folder is not None:
        with contextlib.suppress(OSError):
            (folder / "hub").mkdir(parents=True, exist_ok=True)


def on_host(path: str, mounted: Mapping[str, str]) -> str:
    """Where the daemon finds a folder of the portal's. `mounted`: folders that are other ones on the host."""
    for folder in sorted(mounted, key=len, reverse=True):
        if path == folder.rstrip("/") or path.startswith(f"{folder.rstrip('/')}/"):
            return mounted[folder].rstrip("/") + path[len(folder.rstrip("/")) :]
    return path


def size(text: str) -> int:
    """`48g`, `512m`, `1073741824` in bytes. Raises StartFailed."""
    match = _SIZE.match(text.strip())
    if not match:
        raise StartFailed("bad_setting", f"{text!r} is no size", "Sizes are written like 512m or 48g.")
    return int(match[1]) * _FACTORS[match[2].lower()]


def container_config(
    spec: LaunchSpec, settings: DockerSettings, mounted: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The body for POST /containers/create. `mounted`: as for `on_host`. Raises StartFailed for a setting that Docker
    could not use."""
    compiled = compile_cache_env(CONTAINER_COMPILE_CACHE) if spec.compile_cache else {}
    environment = (
        compiled
        | spec.env
        | {
            "VLLM_API_KEY": spec.engine_key,
            # Only the path: what is in the environment, `docker inspect` shows.
            "HF_TOKEN_PATH": TOKEN_PATH,
        }
    )
    return {
        "Image": spec.image,
        "Cmd": [*spec.argv, "--host", "0.0.0.0", "--port", str(PORT)],  # noqa: S104 (the container's own)
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": labels(spec),
        "ExposedPorts": {PORT_KEY: {}},
        "HostConfig": {
            "AutoRemove": False,
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            "IpcMode": "private",
            "ShmSize": size(settings.shm_size),
            "PidsLimit": settings.pids_limit,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
        }
        | _network(settings)
        | _memory(settings)
        | _gpus(spec)
        | _folders(spec, settings, mounted or {}),
    }


def emptying(folder: str, image: str, mounted: Mapping[str, str]) -> dict[str, Any]:
    """Of a container that removes what is in a folder, as root and with what that takes; the folder itself, which it
    is mounted at, it cannot. It sees nothing else, and is gone with its end."""
    return {
        "Image": image,
        "User": "0",
        "Entrypoint": ["rm", "-rf", "/emptied"],
        "Cmd": [],
        "HostConfig": {
            "AutoRemove": True,
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "CapAdd": ["DAC_OVERRIDE", "FOWNER"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Mounts": [{"Type": "bind", "Source": on_host(folder, mounted), "Target": "/emptied"}],
        },
    }


def _network(settings: DockerSettings) -> dict[str, Any]:
    if settings.network:
        return {"NetworkMode": settings.network}
    return {"PortBindings": {PORT_KEY: [{"HostIp": "127.0.0.1", "HostPort": ""}]}}


def _memory(settings: DockerSettings) -> dict[str, Any]:
    if not settings.memory:
        return {}
    limit = size(settings.memory)
    return {"Memory": limit, "MemorySwap": limit}  # the same: no swap on top


def _gpus(spec: LaunchSpec) -> dict[str, Any]:
    if spec.device == "cuda" and spec.gpu_uuids:
        return {"DeviceRequests": [{"DeviceIDs": list(spec.gpu_uuids), "Capabilities": [["gpu"]]}]}
    if spec.device == "cuda":
        # No GPU is known, so this fails where there is none, with that as its cause, and not as a stranger error
        # of a vLLM that finds no GPU.
        return {"DeviceRequests": [{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}]}
    if spec.device == "rocm":
        devices = [
            {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}
            for path in ("/dev/kfd", "/dev/dri")
        ]
        return {"Devices": devices, "GroupAdd": ["video"]}
    return {}


def _folders(spec: LaunchSpec, settings: DockerSettings, mounted: Mapping[str, str]) -> dict[str, Any]:
    """The Hugging Face cache, a local model, local adapters, and what was compiled before.

    Of a cache folder only the models: the operator's own token lies beside them. A cache or model of another user
    than root needs DAC_OVERRIDE, which root in a container otherwise has by default.
    """
    folder = cache_folder(settings.hf_cache)
    if folder is None:
        binds = [f"{settings.hf_cache}:{CONTAINER_HF_CACHE}"]
    elif ":" in str(folder):
        raise StartFailed("bad_setting", f"Docker cannot use a cache folder with a colon in its name: {folder}")
    else:
        binds = [f"{on_host(f'{folder}/hub', mounted)}:{CONTAINER_HF_CACHE}/hub"]
    if spec.compile_cache:
        compiled = on_host(spec.compile_cache, mounted)
        binds.append(f"{compiled}:{CONTAINER_COMPILE_CACHE}")  # made by Docker where it has just gone
    local = dict.fromkeys(filter(None, (spec.model_dir, *spec.adapter_dirs)))  # each once: Docker wants it so
    mounts = [{"Type": "bind", "Source": on_host(path, mounted), "Target": path, "ReadOnly": True} for path in local]
    return {"Binds": binds, "Mounts": mounts} | (
        {"CapAdd": ["DAC_OVERRIDE"]} if folder or mounts or spec.compile_cache else {}
    )
