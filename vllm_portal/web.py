"""A web server process: `python -m vllm_portal.web`, on a socket that it opens or is handed (`--fd`).

It needs the pages' process beside it (`vllm_portal.pages`); several may share a socket."""

import argparse
import http.client
import logging
import socket

import uvicorn

from vllm_portal import preconditions
from vllm_portal.config import Config, get_config

logger = logging.getLogger(__name__)
GRACEFUL_SECONDS = 10


def serve(listener: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT; running answers then have GRACEFUL_SECONDS to end."""
    from vllm_portal import compiled, door  # sets Django up, which takes a moment that `--check` need not spend

    logger.info("the hot path is %s", "compiled" if compiled.is_used() else "not compiled: it costs more CPU a request")
    config = uvicorn.Config(
        door.application,
        loop="uvloop",
        http=door.Front,
        ws="none",
        lifespan="auto",
        log_config=None,  # Django's set-up counts
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whoever connects could write them; public_url says where the portal is
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        backlog=2048,
    )
    uvicorn.Server(config).run(sockets=[listener])


def answers(config: Config, timeout_s: float) -> bool:
    """Whether the web server of this machine answers `/healthz`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104
    name = next((name.lstrip(".") for name in config.allowed_hosts if name != "*"), "localhost")
    connection = http.client.HTTPConnection(host, config.port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz", headers={"Host": name})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vllm_portal.web", description=__doc__)
    parser.add_argument("--fd", type=int, help="number of the listening socket; unset: one is opened as configured")
    parser.add_argument("--check", action="store_true", help="exit 0 where the web server of this machine answers")
    given = parser.parse_args()
    config = get_config()
    if given.check:
        return 0 if answers(config, timeout_s=3) else 1
    listener = (
        socket.socket(fileno=given.fd) if given.fd is not None else preconditions.listen(config.host, config.port)
    )
    serve(listener)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
