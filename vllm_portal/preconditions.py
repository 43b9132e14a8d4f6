"""What `manage.py run` needs of the machine, looked at before anything starts. Each function raises OperatorError."""

import errno
import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

import redis

from vllm_portal.errors import OperatorError
from vllm_portal.log import redact


def make_writable(data_dir: Path) -> None:
    """Makes the directory where it is missing, and proves that files can be written into it."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "logs").mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir) as file:
            file.write(b"x")
    except OSError as error:
        raise OperatorError(
            f"cannot write to the data directory {data_dir}: {error.strerror}; "
            "change its rights or set PORTAL_DATA_DIR to another one"
        ) from None


def claim(data_dir: Path) -> IO[str]:
    """Takes the directory for this process until the returned file is closed. The kernel frees it when we die."""
    file = (data_dir / "portal.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise OperatorError(
            f"another portal (process {owner}) runs on {data_dir}: stop it or set PORTAL_DATA_DIR to another directory"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def listen(host: str, port: int) -> socket.socket:
    """The listening socket of the web server. It is opened here and handed on, so that nobody can take the port
    in between, and so that requests wait instead of being refused while a web server that died starts again."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except socket.gaierror as error:
        raise OperatorError(f"PORTAL_HOST={host} is no address: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            cause = "something else listens there; stop it or set PORTAL_PORT to another one"
        elif error.errno == errno.EACCES:
            cause = "this user may not open it; set PORTAL_PORT to one above 1023"
        else:
            cause = f"{os.strerror(error.errno or 0)}; look at PORTAL_HOST"
        raise OperatorError(f"port {port} on {host} cannot be used: {cause}") from None


def check_socket_path(path: Path) -> None:
    """The kernel's limit is 107 bytes; its own error says nothing of the cause."""
    if len(str(path).encode()) > 100:
        raise OperatorError(f"the path {path} is too long for a unix socket: choose a shorter PORTAL_DATA_DIR")


def reach_redis(url: str) -> None:
    """For a Redis that somebody else runs."""
    try:
        with redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3) as connection:
            connection.ping()
    except (redis.RedisError, ValueError) as error:
        raise OperatorError(f"Redis at {redact(url)} cannot be used ({error}): look at PORTAL_REDIS_URL") from None
