"""The docker launcher where no daemon answers as it should: everything says so in time, nothing of the SDK gets out."""

import gc
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.errors import LauncherError, StartFailed
from engines.launchers.base import LaunchSpec, Status
from engines.launchers.container_config import DockerSettings
from engines.launchers.docker import DockerLauncher, daemon_answers

# The SDK forgets to close a socket that it could not connect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(autouse=True)
def forgotten_sockets() -> Iterator[None]:
    """Are collected here, and not in the middle of another test."""
    yield
    gc.collect()


SPEC = LaunchSpec(name="vllm-portal-abc-1", portal_id="p1", engine_id="e1", generation=1, argv=["m"], image="i:1")


class Daemon:
    """Accepts connections and answers each request with `answer`, or never (None)."""

    def __init__(self, path: Path) -> None:
        self.answer: bytes | None = None
        self._connections: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.append(connection)
            if self.answer is not None:
                connection.recv(65536)
                connection.sendall(self.answer)
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="portal-"))  # short: a socket's path has at most 107 bytes
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    daemon = Daemon(folder / "docker.sock")
    yield daemon
    daemon.close()


def launcher(folder: Path) -> DockerLauncher:
    environment = {"DOCKER_HOST": f"unix://{folder}/docker.sock"}
    return DockerLauncher(DockerSettings("p1", folder / "logs", hf_cache=str(folder / "hf"), environment=environment))


def check_that_everything_fails_well(docker: DockerLauncher) -> None:
    for call in (
        lambda: docker.prepare(SPEC, print),
        lambda: docker.start(SPEC),
        lambda: docker.stop(SPEC.name, 1),
        docker.list,
    ):
        with pytest.raises(LauncherError) as caught:
            call()
        assert not isinstance(caught.value, StartFailed), "time or the operator cures it, not another engine"
    observation = docker.poll(SPEC.name)
    assert observation.status is Status.UNKNOWN
    assert observation.message
    assert docker.logs(SPEC.name) == ""
    assert docker.log_size(SPEC.name) == 0


def test_no_daemon_at_all(folder: Path) -> None:
    assert not daemon_answers({"DOCKER_HOST": f"unix://{folder}/docker.sock"})
    check_that_everything_fails_well(launcher(folder))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot json!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"\x00\x01\x02 no http",
    ],
    ids=["hangs up", "500", "no json", "another json", "no http"],
)
def test_a_daemon_that_answers_nonsense(folder: Path, daemon: Daemon, answer: bytes) -> None:
    daemon.answer = answer
    assert not daemon_answers({"DOCKER_HOST": f"unix://{folder}/docker.sock"})
    check_that_everything_fails_well(launcher(folder))


def test_a_poll_of_a_daemon_that_hangs_answers_all_the_same(folder: Path, daemon: Daemon) -> None:
    began = time.monotonic()
    assert launcher(folder).poll(SPEC.name).status is Status.UNKNOWN
    assert time.monotonic() - began < 20, "it would hang for ever"
    assert not daemon_answers({"DOCKER_HOST": f"unix://{folder}/docker.sock"})


def test_a_kept_log_is_read_without_a_daemon(folder: Path) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / f"{SPEC.name}.log").write_text("the last words\n")
    assert launcher(folder).logs(SPEC.name) == "the last words\n"
    assert launcher(folder).log_size(SPEC.name) == 15
    assert launcher(folder).logs(f"../logs/../../{SPEC.name}") == "the last words\n", "a name, never a path"
