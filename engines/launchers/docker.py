"""Engines as containers of a Docker daemon. The only module that knows the Docker SDK.

The container's name is derived from engine and generation, so that the daemon itself refuses a second one; labels say
whose it is, and what is not labelled as this portal's is never touched. Nothing about an engine is kept in memory here.
Every exception of the SDK becomes a LauncherError, or a StartFailed where a change of the engine or of this machine's
configuration would cure it.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
import urllib3
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env

from engines.errors import LauncherError, StartFailed
from engines.launchers import logfile, token_file
from engines.launchers.base import LaunchSpec, Listed, Observation, Status
from engines.launchers.container_config import (
    LABEL_PORTAL,
    DockerSettings,
    container_config,
    emptying,
    make_cache_folder,
)
from engines.launchers.container_state import is_portals, is_this_engine, listed, nanoseconds, observe
from engines.launchers.docker_failures import by_id_missing, missing, pull_failure, start_failure
from engines.launchers.pulling import PullProgress

logger = logging.getLogger(__name__)

CALL_SECONDS = 30
LOOK_SECONDS = 4
"""For what must answer soon: poll, logs, whether an image is there."""
PROBE_SECONDS, EMPTY_SECONDS = 2, 300
KEPT_LOG_BYTES = 8 * 2**20
TAIL_LINES = 2000
CREATE_SECONDS = 20

# What the SDK lets through of the layers below it: a daemon that hangs, goes away, or answers nonsense.
_FAILURES = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)


def daemon_answers(environment: Mapping[str, str]) -> bool:
    """Whether a Docker daemon answers within PROBE_SECONDS. Never raises."""
    try:
        with contextlib.closing(_connect(environment, PROBE_SECONDS)) as client:
            return bool(client.ping())
    except _FAILURES:
        return False


class DockerLauncher:
    name = "docker"

    def __init__(self, settings: DockerSettings) -> None:
        """Connects to nothing yet."""
        self._settings = settings
        self._clients: dict[int, APIClient] = {}

    def lacks(self, image: str) -> bool:
        with _translated(f"looking for the image {image}"):
            try:
                self._client(LOOK_SECONDS).inspect_image(image)
            except NotFound:
                return True
        return False

    def prepare(self, spec: LaunchSpec, progress: Callable[[str], None]) -> None:
        """Pulls the image if the daemon does not have it; `progress` hears of it at most once a second."""
        if not self.lacks(spec.image):
            return
        if spec.image.startswith("sha256:"):
            raise by_id_missing(spec.image)
        said, said_at = "", 0.0
        pulling = PullProgress(spec.image)
        for message in self._pull(spec.image):
            pulling.add(message)
            line, now = pulling.line(), time.monotonic()
            if line != said and now - said_at >= 1:
                said, said_at = line, now
                progress(line)
        if self.lacks(spec.image):  # else who asks for it would be sent round and round
            raise missing(spec.image, "it was pulled, and is not there")

    def start(self, spec: LaunchSpec) -> Observation:
        """A container of that name that has ended is not revived: it is reported as EXITED until `stop` removes it."""
        make_cache_folder(self._settings)
        deadline = time.monotonic() + CREATE_SECONDS
        while time.monotonic() < deadline:
            self._create(spec)
            inspected = self._inspect(spec.name)
            if inspected is None:  # the name is taken, by one that another starter is making, or that has just gone
                time.sleep(0.05)
                continue
            if not is_this_engine(inspected, spec):
                raise StartFailed(
                    "name_taken",
                    f"another container is called {spec.name}",
                    f"See whose it is with `docker inspect {spec.name}`; remove it if it is of no use.",
                )
            if inspected["State"]["Status"] == "created":
                self._start(spec, inspected)
                inspected = self._inspect(spec.name)
            if inspected is not None:
                return self._started(inspected)
        raise LauncherError(f"the name {spec.name} is taken, but there is no such container")

    def poll(self, name: str) -> Observation:
        try:
            inspected = self._inspect(name, LOOK_SECONDS)
        except LauncherError as error:
            return Observation(Status.UNKNOWN, message=str(error))
        if inspected is None or not is_portals(inspected, self._settings.portal_id):
            return Observation(Status.GONE)
        return observe(inspected)

    def logs(self, name: str, max_bytes: int = 200_000) -> str:
        try:
            return logfile.as_text(self._live_log(name, max_bytes))
        except LauncherError:
            pass  # gone, or no answer: the kept one, if there is one
        with contextlib.suppress(OSError):
            return logfile.as_text(logfile.read_ends(self._kept_log(name), max_bytes))
        return ""

    def log_size(self, name: str) -> int:
        """Not a size, which the daemon does not tell, but the time of the last line in nanoseconds."""
        with contextlib.suppress(LauncherError, ValueError), _translated("reading a log"):
            container = self._own_container(name)
            line: bytes = self._client(LOOK_SECONDS).logs(container, tail=1, timestamps=True)
            return nanoseconds(line.split(b" ", 1)[0].decode()) if line else 0
        with contextlib.suppress(OSError):
            return self._kept_log(name).stat().st_size
        return 0

    def stop(self, name: str, grace_s: int) -> None:
        inspected = self._inspect(name)
        if inspected is None or not is_portals(inspected, self._settings.portal_id):
            return
        container = inspected["Id"]  # from here on this one, and no other that takes its name
        with _translated(f"stopping {name}"), contextlib.suppress(NotFound):
            if inspected["State"]["Status"] != "created":
                self._client().stop(container, timeout=grace_s)
                self._keep_log(name, container)
            self._remove(container)

    def empty(self, folder: str, image: str) -> None:
        body = emptying(folder, image, self._mounted())
        with _translated(f"emptying {folder}", image):
            container = self._client().create_container_from_config(body)["Id"]
            with contextlib.suppress(NotFound), contextlib.ExitStack() as end:  # it removes itself
                end.callback(self._remove, container)
                self._client().start(container)
                self._client(EMPTY_SECONDS).wait(container)

    def list(self) -> "list[Listed]":
        wanted = {"label": f"{LABEL_PORTAL}={self._settings.portal_id}"}
        with _translated("listing containers"):
            containers = self._client().containers(all=True, filters=wanted)
        return [found for container in containers if (found := listed(container))]

    # Parts

    def _client(self, timeout_s: int = CALL_SECONDS) -> APIClient:
        """Connections with this time-out for each answer, kept. Raises what the SDK raises."""
        client = self._clients.get(timeout_s)
        if client is None:  # no lock: threads would queue up behind a daemon that hangs
            client = self._clients.setdefault(timeout_s, _connect(self._settings.environment, timeout_s))
        return client

    def _inspect(self, name: str, timeout_s: int = CALL_SECONDS) -> dict[str, Any] | None:
        """None: no such container. Raises LauncherError."""
        with _translated(f"looking at {name}"):
            try:
                return self._client(timeout_s).inspect_container(name)
            except NotFound:
                return None

    def _create(self, spec: LaunchSpec) -> None:
        """Returns also when a container of that name is there already."""
        body = container_config(spec, self._settings, self._mounted())
        with _translated(f"making {spec.name}", spec.image):
            try:
                self._client().create_container_from_config(body, spec.name)
            except APIError as error:
                if error.status_code != 409:
                    raise

    def _start(self, spec: LaunchSpec, inspected: Mapping[str, Any]) -> None:
        """Starts a container that never ran. Two at once: the second finds it running, which is no error.

        One that cannot be started is removed, so that nothing is left of a failure.
        """
        try:
            with _translated(f"starting {spec.name}", spec.image):
                if spec.hf_token:
                    token = token_file.archive(spec.hf_token, readable_by_all=bool(inspected["Config"].get("User")))
                    self._client().put_archive(inspected["Id"], "/", token)
                self._client().start(inspected["Id"])
        except StartFailed:
            with contextlib.suppress(LauncherError), _translated(f"removing {spec.name}"):
                self._remove(inspected["Id"])
            raise

    def _started(self, inspected: Mapping[str, Any]) -> Observation:
        observation = observe(inspected)
        if observation.status is Status.UNKNOWN:
            raise LauncherError(f"{inspected['Name'].lstrip('/')} was started, but {observation.message}")
        return observation

    def _mounted(self) -> dict[str, str]:
        """Where the portal's own volumes are on the daemon's host. Raises StartFailed, and LauncherError."""
        return {folder: self._mountpoint(volume) for folder, volume in self._settings.volumes.items()}

    def _mountpoint(self, volume: str) -> str:
        found: Mapping[str, Any] = {}
        with _translated(f"looking for the volume {volume}"), contextlib.suppress(NotFound):
            found = self._client().inspect_volume(volume)
        if not found.get("Mountpoint"):
            raise StartFailed(
                "bad_setting",
                f"Docker has no volume {volume} on its own disk.",
                "An admin names in docker_volumes what `docker volume ls` names, of the driver `local`.",
            )
        return str(found["Mountpoint"])

    def _pull(self, image: str) -> Iterator[dict[str, Any]]:
        """The daemon's messages until the image is there. Raises StartFailed or LauncherError.

        The SDK sets no time-out for a pull, which may well be silent for minutes. So a thread reads, and one that
        gets stuck is left behind; it ends with its connection.
        """
        messages: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()

        def read() -> None:
            try:
                for message in self._client().pull(image, stream=True, decode=True):
                    messages.put(message)
                messages.put(None)
            except _FAILURES as error:
                messages.put(error)

        threading.Thread(target=read, name=f"pull {image}", daemon=True).start()
        deadline = time.monotonic() + self._settings.pull_timeout_s
        while True:
            try:
                message = messages.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                took = f"{self._settings.pull_timeout_s:.0f} s"
                raise LauncherError(f"pulling {image} took longer than {took} (pull_timeout_seconds)") from None
            if message is None:
                return
            refused = _explanation(message) if isinstance(message, BaseException) else message.get("error")
            if refused:
                raise pull_failure(refused, image) or LauncherError(f"pulling {image}: {refused}")
            yield message

    def _live_log(self, name: str, max_bytes: int) -> bytes:
        """The two ends of the log without reading what lies between. Raises LauncherError, also for no container."""
        container, head = self._own_container(name), bytearray()
        with _translated(f"reading the log of {name}"):
            client = self._client(LOOK_SECONDS)
            with _log_stream(client, container) as chunks:
                for chunk in chunks:
                    head += chunk
                    if len(head) > max_bytes:
                        break
                else:
                    return bytes(head)
            tail: bytes = client.logs(container, tail=TAIL_LINES)
        return logfile.join_ends(bytes(head[: max_bytes // 2]), tail[-(max_bytes // 2) :])

    def _own_container(self, name: str) -> str:
        """Its id. Raises LauncherError where there is none, or another portal's."""
        inspected = self._inspect(name, LOOK_SECONDS)
        if inspected is None or not is_portals(inspected, self._settings.portal_id):
            raise LauncherError(f"this portal has no container called {name}")
        return str(inspected["Id"])

    def _kept_log(self, name: str) -> Path:
        return self._settings.log_dir / f"{Path(name).name}.log"

    def _keep_log(self, name: str, container: str) -> None:
        """A log that cannot be kept must not keep the container: it is removed all the same."""
        kept = self._kept_log(name)
        draft = kept.with_suffix(".part")
        try:
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _log_stream(self._client(), container) as chunks, draft.open("wb") as file:
                file.writelines(chunks)
            logfile.keep(draft, kept, KEPT_LOG_BYTES)
        except NotFound:
            raise
        except _FAILURES as error:
            logger.warning("the log of %s is lost: %s", name, _explanation(error))

    def _remove(self, container: str) -> None:
        """Returns when it is gone, also when somebody else is at it. Raises what the SDK raises, and LauncherError."""
        try:
            self._client().remove_container(container, v=True, force=True)
            return
        except APIError as error:
            if error.status_code != 409:
                raise
        deadline = time.monotonic() + CALL_SECONDS
        while time.monotonic() < deadline:
            self._client().inspect_container(container)  # NotFound ends this
            time.sleep(0.1)
        raise LauncherError(f"Docker has been removing {container[:12]} for {CALL_SECONDS} s")


def _connect(environment: Mapping[str, str], timeout_s: int) -> APIClient:
    # An empty mapping would make the SDK read this process's environment itself.
    return APIClient(version="auto", timeout=timeout_s, **kwargs_from_env(environment or {"": ""}))


@contextlib.contextmanager
def _log_stream(client: APIClient, container: str) -> Iterator[Iterator[bytes]]:
    """The log so far in pieces; leaving the block early is fine."""
    stream = client.logs(container, stream=True, follow=False)
    # The stream's own close() closes the socket under its response, which then lies about.
    with contextlib.closing(stream._response):
        yield stream


@contextlib.contextmanager
def _translated(doing: str, image: str | None = None) -> Iterator[None]:
    """The SDK's errors as the portal's. With an image the message is also looked through for a cause."""
    try:
        yield
    except _FAILURES as error:
        message = _explanation(error)
        failure = start_failure(message, image) if image is not None else None
        raise failure or LauncherError(f"Docker, {doing}: {message}") from error


def _explanation(error: BaseException) -> str:
    return str(error.explanation if isinstance(error, APIError) and error.explanation else error)
