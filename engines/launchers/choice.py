"""Which launcher there is, made from the configuration."""

import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path

from engines.errors import LauncherError
from engines.launchers.base import Launcher
from engines.launchers.container_config import DockerSettings, cache_folder
from vllm_portal.config import PROJECT_ROOT, environment, get_config
from vllm_portal.secret_keys import portal_id

# The Docker SDK and the process launcher are imported where they are used: the web process needs neither.


@lru_cache(maxsize=1)
def chosen_name() -> str:
    """What runs new engines: `docker` where a daemon answers, else `process` where `vllm` is on the PATH, else
    `simulator`; or what the configuration says.

    Decided once in a process. To have all processes of a portal agree, decide in the first and hand it on.
    """
    config = get_config()
    if config.launcher != "auto":
        return config.launcher
    if _docker_answers():
        return "docker"
    return "process" if shutil.which(config.vllm_executable) else "simulator"


@lru_cache
def launcher(name: str) -> Launcher:
    """The launcher that `Engine.launcher` names; one for each process, for any number of threads. Connects to
    nothing. Raises LauncherError for a name that there is none of."""
    makers = {"docker": _docker, "process": _process, "simulator": _simulator}
    if name not in makers:
        raise LauncherError(f"there is no launcher called {name!r}")
    return makers[name]()


def is_here(name: str) -> bool:
    """Whether the folders of this machine are those that engines see. False: a Docker daemon elsewhere, or one whose
    Hugging Face cache is a volume that the portal does not see (`docker_volumes`: it does)."""
    if name != "docker":
        return True
    far = environment().get("DOCKER_HOST", "").startswith(("tcp:", "ssh:", "http"))
    return not far and cache_folder(get_config().hf_cache_dir) is not None


def log_dir() -> Path:
    """Where the logs of engines that are gone are kept. May not be there yet."""
    return get_config().data_dir / "engine-logs"


def _docker_answers() -> bool:
    from engines.launchers.docker import daemon_answers

    return daemon_answers(environment())


def _docker() -> Launcher:
    from engines.launchers.docker import DockerLauncher

    config = get_config()
    settings = DockerSettings(
        portal_id=portal_id(),
        log_dir=log_dir(),
        hf_cache=config.hf_cache_dir,
        volumes=config.docker_volumes,
        shm_size=config.docker_shm_size,
        memory=config.docker_memory,
        pids_limit=config.docker_pids_limit,
        network=config.docker_network,
        pull_timeout_s=config.pull_timeout_seconds,
        environment=environment(),
    )
    return DockerLauncher(settings)


def _process() -> Launcher:
    from engines.launchers.process import ProcessLauncher, ProcessSettings

    config = get_config()
    folder = cache_folder(config.hf_cache_dir)
    settings = ProcessSettings(
        name="process",
        portal_id=portal_id(),
        runtime_dir=config.data_dir / "engines" / "process",
        log_dir=log_dir(),
        command=(config.vllm_executable, "serve"),
        parent_environment=environment(),
        environment={"HF_HOME": str(folder)} if folder else {},
    )
    return ProcessLauncher(settings)


def _simulator() -> Launcher:
    from engines.launchers.process import ProcessLauncher, ProcessSettings

    config = get_config()
    parent = environment()
    settings = ProcessSettings(
        name="simulator",
        portal_id=portal_id(),
        runtime_dir=config.data_dir / "engines" / "simulator",
        log_dir=log_dir(),
        command=(sys.executable, "-m", "engines.simulator"),
        extra_args=tuple(config.simulator_args),
        parent_environment=parent,
        environment={"PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT_ROOT), parent.get("PYTHONPATH")]))},
    )
    return ProcessLauncher(settings)
