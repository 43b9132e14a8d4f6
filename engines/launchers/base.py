"""What every launcher does: start, poll, logs, stop, list. A launcher knows no database and no Django.

An engine is known to its launcher by its `name` alone, which is unique for engine and generation. Each call is safe
to repeat and safe to make from two processes at once: `start` of what runs adopts it, `stop` of what is gone is
success. No call takes longer than the launcher's own time-outs, and each raises LauncherError at worst.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


@dataclass(frozen=True)
class LaunchSpec:
    """All that a launcher needs to start one engine. Nothing in it was written by a client without a check."""

    name: str
    portal_id: str
    """Which portal's: a launcher lists and touches only its own portal's engines."""
    engine_id: str
    generation: int
    argv: list[str]
    """vLLM's arguments after `vllm serve`, without host, port and key, which the launcher adds."""
    env: dict[str, str] = field(default_factory=dict)
    engine_key: str = ""
    """Passed as VLLM_API_KEY; never in argv."""
    hf_token: str = ""
    """Passed as a file (HF_TOKEN_PATH) where that works, so that `docker inspect` does not show it."""
    device: str = "cpu"
    gpu_uuids: tuple[str, ...] = ()
    image: str = ""
    model_dir: str | None = None
    """A local model directory, to be mounted read-only at the same path."""
    adapter_dirs: tuple[str, ...] = ()
    """Likewise."""
    compile_cache: str | None = None
    """A folder of this machine where what is compiled stays, of this owner and image alone."""


class Status(Enum):
    RUNNING = "running"
    EXITED = "exited"
    GONE = "gone"
    """There is nothing of that name (any more)."""
    UNKNOWN = "unknown"
    """The launcher cannot tell now. Never a reason to kill an engine or to free its GPUs."""


@dataclass(frozen=True)
class Observation:
    """What a launcher sees of one engine."""

    status: Status
    container_id: str = ""
    host: str = ""
    port: int | None = None
    """host and port: where the engine listens, or will once it has loaded. Set while RUNNING."""
    image_digest: str = ""
    """Docker's id of the image that it was made of; "": there is none."""
    exit_code: int | None = None
    """None: not known. 0 is no proof of a clean end: a killed vLLM worker gives 0 too."""
    oom_killed: bool = False
    message: str = ""
    """What the launcher says of the end, such as Docker's State.Error."""


@dataclass(frozen=True)
class Listed:
    """One engine of this portal that the launcher holds something of."""

    name: str
    engine_id: str
    generation: int
    status: Status


class Launcher(Protocol):
    """`name` is what `Engine.launcher` stores."""

    name: str

    def lacks(self, image: str) -> bool:
        """Whether `prepare` has something to fetch for an engine of this image. Within 5 s. Raises LauncherError."""

    def prepare(self, spec: LaunchSpec, progress: Callable[[str], None]) -> None:
        """Fetches what a start needs (docker: the image, if it is not there). `progress` gets short lines for
        people. Raises StartFailed (image_missing, …) or LauncherError. Returns at once when all is there."""

    def start(self, spec: LaunchSpec) -> Observation:
        """Starts the engine, or adopts the one of that name. Returns a RUNNING observation as soon as the container
        or process runs, long before the model is loaded. Raises StartFailed (no_gpu_runtime, …) or LauncherError."""

    def poll(self, name: str) -> Observation:
        """What is there now; never raises, answers UNKNOWN instead. Within 5 s."""

    def logs(self, name: str, max_bytes: int = 200_000) -> str:
        """The log's first and last parts if it is longer than max_bytes; "" where there is none. Never raises."""

    def log_size(self, name: str) -> int:
        """A number that grows with the log: the sign of life of an engine that loads. 0 where there is none."""

    def stop(self, name: str, grace_s: int) -> None:
        """Ends the engine: SIGTERM, SIGKILL after grace_s, and removes what is left of it but its log.
        Returns when it is dead. Gone already is success. Raises LauncherError when it may still live."""

    def empty(self, folder: str, image: str) -> None:
        """Removes what engines of this image wrote into a folder of this machine, whoever's it is by now. The folder
        itself may stay. Within some minutes. Raises LauncherError; without one something may be left all the same."""

    def list(self) -> "list[Listed]":
        """All engines of this portal that the launcher holds something of. Raises LauncherError."""
