"""A launcher that runs nothing and misbehaves as it is told. It keeps to `engines.launchers.base`."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from engines.errors import LauncherError
from engines.launchers.base import LaunchSpec, Listed, Observation, Status


@dataclass
class Container:
    spec: LaunchSpec
    seen: Observation
    log: str = ""


@dataclass
class FakeLauncher:
    """`calls` says what it was asked, in order. The hooks run before the call does anything, and may block or raise."""

    name: str = "fake"
    address: tuple[str, int] = ("127.0.0.1", 9)
    """Where its engines listen. Port 9: nothing does."""
    containers: dict[str, Container] = field(default_factory=dict)
    kept_logs: dict[str, str] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)
    """That need no `prepare`."""
    calls: list[str] = field(default_factory=list)
    before_prepare: Callable[[Callable[[str], None]], None] = lambda progress: None
    before_start: Callable[[LaunchSpec], None] = lambda spec: None
    before_stop: Callable[[str], None] = lambda name: None
    before_empty: Callable[[str], None] = lambda folder: None
    unknown: bool = False
    started: int = 0
    """How many containers were really made."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # What a launcher does

    def lacks(self, image: str) -> bool:
        return image not in self.images

    def prepare(self, spec: LaunchSpec, progress: Callable[[str], None]) -> None:
        self.calls.append("prepare")
        self.before_prepare(progress)
        self.images.add(spec.image)

    def start(self, spec: LaunchSpec) -> Observation:
        self.calls.append("start")
        self.before_start(spec)
        with self._lock:
            if spec.name not in self.containers:
                self.started += 1
                host, port = self.address
                seen = Observation(Status.RUNNING, f"{self.started:064x}", host, port)
                self.containers[spec.name] = Container(spec, seen)
            return self.containers[spec.name].seen

    def poll(self, name: str) -> Observation:
        if self.unknown:
            return Observation(Status.UNKNOWN, message="the daemon does not answer")
        container = self.containers.get(name)
        return container.seen if container else Observation(Status.GONE)

    def logs(self, name: str, max_bytes: int = 200_000) -> str:
        container = self.containers.get(name)
        return container.log if container else self.kept_logs.get(name, "")

    def log_size(self, name: str) -> int:
        return len(self.logs(name))

    def stop(self, name: str, grace_s: int) -> None:
        self.calls.append("stop")
        self.before_stop(name)
        if self.unknown:
            raise LauncherError("the daemon does not answer")
        with self._lock:
            if container := self.containers.pop(name, None):
                self.kept_logs[name] = container.log

    def empty(self, folder: str, image: str) -> None:
        self.calls.append(f"empty by {image}")
        self.before_empty(folder)

    def list(self) -> "list[Listed]":
        return [
            Listed(name, container.spec.engine_id, container.spec.generation, container.seen.status)
            for name, container in self.containers.items()
        ]

    # What happens to its containers

    def die(self, name: str, log: str = "", exit_code: int | None = 1, oom_killed: bool = False) -> None:
        container = self.containers[name]
        container.log = log
        container.seen = Observation(
            Status.EXITED, container.seen.container_id, exit_code=exit_code, oom_killed=oom_killed
        )


def raising(error: Exception) -> Callable[..., None]:
    """A hook that fails."""

    def fail(*_: object) -> None:
        raise error

    return fail
