"""Engines as processes of this machine: vLLM's own command, or the stand-in engine's.

Each engine has a session of its own and a directory, and outlives the portal; a portal that starts again finds it by
that directory. Nothing about an engine is kept in memory here, so any number of portal processes may do anything at
once. What decides is a lock that the engine's processes inherit (see engine_directory): two starters cannot both have
it, an engine that dies in whatever way gives it back, and no reused process id can be taken for an engine.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engines import detached
from engines.errors import LauncherError, StartFailed
from engines.launchers import logfile
from engines.launchers.base import LaunchSpec, Listed, Observation, Status
from engines.launchers.engine_directory import EngineDirectory, Meta
from engines.launchers.ports import free_port
from engines.launchers.processes import processes_of, signal_groups, signal_process
from engines.launchers.visible_gpus import visible_gpus
from engines.vllm_command import compile_cache_env

CHILD = Path(__file__).with_name("child.sh")
HOST = "127.0.0.1"
UNDER_WAY_SECONDS = 10.0
"""Longest time from the fork to the child's first act; it takes milliseconds."""
KILL_SECONDS = 10.0
"""Longest time from SIGKILL to death; a process that waits for a driver can take long."""
LOOK_SECONDS = 0.02
LIVE_LOG_BYTES = 64 * 2**20
KEPT_LOG_BYTES = 8 * 2**20

# What an engine gets of the portal's environment. Nothing of the portal's own: PORTAL_* holds its secrets.
INHERITED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "VIRTUAL_ENV", "CC", "CXX"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    }
)
INHERITED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "ROCM_", "HSA_", "OMP_")


@dataclass(frozen=True)
class ProcessSettings:
    portal_id: str
    runtime_dir: Path
    """One folder for each engine that lives, or ended and was not stopped yet."""
    log_dir: Path
    """The logs of engines that are gone, as <name>.log."""
    command: tuple[str, ...] = ("vllm", "serve")
    """Comes before the engine's own arguments."""
    extra_args: tuple[str, ...] = ()
    """Come after them."""
    parent_environment: Mapping[str, str] = field(default_factory=dict)
    """The portal's; engines get only what INHERITED names."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further environment of every engine."""
    name: str = "process"


class ProcessLauncher:
    def __init__(self, settings: ProcessSettings) -> None:
        self.name = settings.name
        self._settings = settings
        # vLLM's children find their log by its real path, and the child's directory is given to it as one.
        self._runtime_dir = Path(os.path.realpath(settings.runtime_dir))

    def lacks(self, image: str) -> bool:
        return False

    def prepare(self, spec: LaunchSpec, progress: Callable[[str], None]) -> None:
        """Nothing to fetch: vLLM is there, or StartFailed (vllm_missing) says that it is not."""
        self._command()

    def start(self, spec: LaunchSpec) -> Observation:
        """An engine that has ended is not revived: it is reported as EXITED until `stop` puts it away."""
        detached.reap()
        directory = self._directory(spec.name)
        deadline = time.monotonic() + UNDER_WAY_SECONDS
        with _translated(f"starting {spec.name}"):
            while time.monotonic() < deadline:
                directory.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                with directory.locked() as lock:
                    self._refuse_another(directory, spec)
                    if lock is not None and directory.pid() is None:
                        self._launch(directory, spec, lock)
                observation = self._observe(directory)
                if observation.status in (Status.RUNNING, Status.EXITED):
                    return observation
                time.sleep(LOOK_SECONDS)
        raise LauncherError(f"{spec.name} does not get under way within {UNDER_WAY_SECONDS:.0f} s")

    def poll(self, name: str) -> Observation:
        """EXITED as soon as vLLM's first process has ended, even if others still have to go; `stop` sees to those.

        An engine whose shell alone was killed is RUNNING; its exit code will not be known.
        """
        detached.reap()
        try:
            directory = self._directory(name)
            observation = self._observe(directory)
            if observation.status is Status.RUNNING:
                logfile.bound(directory.log, LIVE_LOG_BYTES)
        except (OSError, LauncherError) as error:
            return Observation(Status.UNKNOWN, message=str(error))
        return observation

    def logs(self, name: str, max_bytes: int = 200_000) -> str:
        for log in self._logs(name):
            with contextlib.suppress(OSError):
                return logfile.as_text(logfile.read_ends(log, max_bytes))
        return ""

    def log_size(self, name: str) -> int:
        for log in self._logs(name):
            with contextlib.suppress(OSError):
                return log.stat().st_size
        return 0

    def stop(self, name: str, grace_s: int) -> None:
        directory = self._directory(name)
        now = time.monotonic()
        patience, deadline = now + grace_s, now + grace_s + KILL_SECONDS
        asked = False
        with _translated(f"stopping {name}"):
            while directory.path.exists() and self._is_ours(directory):
                detached.reap()
                with directory.locked() as lock:
                    processes = self._processes(directory)
                    if lock is not None and not processes:
                        self._put_away(directory)
                        return
                if time.monotonic() > deadline:
                    raise LauncherError(f"{name} still lives {KILL_SECONDS:.0f} s after SIGKILL")
                if time.monotonic() >= patience:
                    signal_groups(set(processes.values()), signal.SIGKILL)
                elif processes and not asked:
                    self._ask_to_end(directory, processes)
                    asked = True
                time.sleep(LOOK_SECONDS)

    def empty(self, folder: str, image: str) -> None:
        """Its engines run as the portal's own user, who can do so without it."""

    def list(self) -> "list[Listed]":
        with _translated("listing engines"):
            if not self._runtime_dir.is_dir():
                return []
            return [listed for path in sorted(self._runtime_dir.iterdir()) if (listed := self._listed(path))]

    # Parts

    def _directory(self, name: str) -> EngineDirectory:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise LauncherError(f"not a name of an engine: {name!r}")
        return EngineDirectory(self._runtime_dir / name)

    def _command(self) -> "list[str]":
        program, *rest = self._settings.command
        found = shutil.which(program, path=self._settings.parent_environment.get("PATH", os.defpath))
        if found is None:
            raise StartFailed(
                "vllm_missing",
                f"there is no command {program} on this machine",
                "Install vLLM (pip install vllm), name its command in vllm_executable, or use the docker launcher.",
            )
        return [found, *rest]

    def _is_ours(self, directory: EngineDirectory) -> bool:
        """A directory without meta.json is what a starter left that died in its first millisecond: anybody's."""
        meta = directory.meta()
        return meta is None or meta.portal == self._settings.portal_id

    def _refuse_another(self, directory: EngineDirectory, spec: LaunchSpec) -> None:
        meta = directory.meta()
        wanted = (spec.portal_id, spec.engine_id, spec.generation)
        if meta is not None and (meta.portal, meta.engine, meta.generation) != wanted:
            raise StartFailed(
                "name_taken",
                f"another portal's engine is called {spec.name}",
                f"See whose it is in {directory.path / 'meta.json'}.",
            )

    def _launch(self, directory: EngineDirectory, spec: LaunchSpec, lock: int) -> None:
        """Dying between any two lines leaves either no pid file, and the next start begins afresh, or a child."""
        command = self._command()
        environment = self._environment(directory, spec)
        with self._choosing_ports():
            port = free_port(self._taken_ports())
            directory.write_meta(Meta(spec.portal_id, spec.engine_id, spec.generation, HOST, port))
        if spec.hf_token:
            directory.write_token(spec.hf_token)
        arguments = [*spec.argv, "--host", HOST, "--port", str(port), *self._settings.extra_args]
        with directory.log.open("ab") as log:  # append: logfile.bound shortens it while the engine writes
            detached.spawn(["/bin/sh", str(CHILD), *command, *arguments], directory.path, environment, log, lock)

    @contextlib.contextmanager
    def _choosing_ports(self) -> Iterator[None]:
        """One chooser at a time, until its choice can be read; it takes milliseconds."""
        chooser = EngineDirectory(self._runtime_dir / ".ports")
        chooser.path.mkdir(mode=0o700, exist_ok=True)
        deadline = time.monotonic() + UNDER_WAY_SECONDS
        while time.monotonic() < deadline:
            with chooser.locked() as lock:
                if lock is not None:
                    yield
                    return
            time.sleep(LOOK_SECONDS)
        raise LauncherError("another start has been choosing a port for too long")

    def _taken_ports(self) -> set[int]:
        """Those given to engines that may not listen yet."""
        metas = (EngineDirectory(path).meta() for path in self._runtime_dir.iterdir())
        return {meta.port for meta in metas if meta}

    def _environment(self, directory: EngineDirectory, spec: LaunchSpec) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in self._settings.parent_environment.items()
            if name in INHERITED or name.startswith(INHERITED_PREFIXES)
        }
        own = {
            "PYTHONUNBUFFERED": "1",
            "VLLM_API_KEY": spec.engine_key,
            # Also without a token: the portal's user may have one of their own, which is not for engines.
            "HF_TOKEN_PATH": str(directory.token),
        }
        compiled = compile_cache_env(spec.compile_cache) if spec.compile_cache else {}
        return inherited | compiled | dict(self._settings.environment) | spec.env | visible_gpus(spec, inherited) | own

    def _observe(self, directory: EngineDirectory) -> Observation:
        """The order of the looks matters: whoever wrote a pid held the lock, so a pid and then a free lock is an end,
        and an exit code is written before the lock is given back."""
        meta = directory.meta()
        if meta is None:
            locked = directory.is_locked()
            return Observation(Status.UNKNOWN, message="it is being started") if locked else Observation(Status.GONE)
        if meta.portal != self._settings.portal_id:
            return Observation(Status.GONE)
        name = directory.path.name
        pid = directory.pid()
        locked = directory.is_locked()
        code = directory.exit_code()
        if code is not None:
            return Observation(Status.EXITED, container_id=name, exit_code=code)
        if locked and pid is None:
            return Observation(Status.UNKNOWN, message="it is being started")
        if locked:
            return Observation(Status.RUNNING, container_id=name, host=meta.host, port=meta.port)
        if pid is None or not directory.path.exists():
            return Observation(Status.GONE)
        return Observation(
            Status.EXITED, container_id=name, message="it was killed from outside, or the machine was restarted"
        )

    def _processes(self, directory: EngineDirectory) -> dict[int, int]:
        """Process id -> group of all that lives of the engine."""
        processes = processes_of(directory.log)
        if not processes and not Path("/proc/self/fd").exists() and (pid := directory.pid()) and directory.is_locked():
            return {pid: pid}  # no /proc here: the session's leader and its group have to do
        return processes

    def _ask_to_end(self, directory: EngineDirectory, processes: dict[int, int]) -> None:
        """SIGTERM to the shell, which hands it on to vLLM's first process; to all where the shell was killed."""
        shell = directory.pid()
        if shell is not None and shell in processes:
            signal_process(shell, signal.SIGTERM)
        else:
            signal_groups(set(processes.values()), signal.SIGTERM)

    def _put_away(self, directory: EngineDirectory) -> None:
        directory.token.unlink(missing_ok=True)
        kept = self._settings.log_dir / f"{directory.path.name}.log"
        logfile.keep(directory.log, kept, KEPT_LOG_BYTES)
        directory.remove()

    def _logs(self, name: str) -> "list[Path]":
        """Where the log may be: the live one first, then the one that `stop` kept."""
        try:
            directory = self._directory(name)
        except LauncherError:
            return []
        return [directory.log, self._settings.log_dir / f"{name}.log"] if self._is_ours(directory) else []

    def _listed(self, path: Path) -> Listed | None:
        if path.name.startswith("."):
            return None
        directory = EngineDirectory(path)
        meta = directory.meta()
        if meta is None or meta.portal != self._settings.portal_id:
            return None
        return Listed(path.name, meta.engine, meta.generation, self._observe(directory).status)


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LauncherError(f"{doing}: {error.strerror or error}") from error
