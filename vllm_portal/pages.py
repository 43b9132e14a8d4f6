"""The process of Django's pages and API: `python -m vllm_portal.pages`, on a unix socket for the web processes."""

import contextlib
import os
import socket
import stat

import uvicorn

from vllm_portal.config import get_config
from vllm_portal.preconditions import check_socket_path

GRACEFUL_SECONDS = 10


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


def main() -> None:
    from vllm_portal import asgi

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
    uvicorn.Server(config).run(sockets=[listen()])


if __name__ == "__main__":
    main()
