"""The process of Django's pages and API: `python -m vllm_portal.pages`, on a unix socket for the web processes.

At SIGTERM, and at LET_GO before, requests that wait for an engine to wake are told to come again: a web process that
stops waits for the pages that it has passed on.
"""

import contextlib
import os
import signal
import socket
import stat
from types import FrameType

import uvicorn

from vllm_portal.config import get_config
from vllm_portal.preconditions import check_socket_path

GRACEFUL_SECONDS = 10
LET_GO = signal.SIGUSR1


def listen() -> socket.socket:
    """The configured socket, for this user alone. One that a killed process left is replaced. Raises OperatorError."""
    path = get_config().pages_socket
    check_socket_path(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    os.chmod(path, 0o600)
    listener.listen(1024)
    return listener


def _let_go(*_: object) -> None:
    from inference import gateway

    gateway.let_go()


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        _let_go()
        super().handle_exit(sig, frame)


def main() -> None:
    from vllm_portal import asgi

    signal.signal(LET_GO, _let_go)
    config = uvicorn.Config(
        asgi.application,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,  # the web process writes its own
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    _Server(config).run(sockets=[listen()])


if __name__ == "__main__":
    main()
