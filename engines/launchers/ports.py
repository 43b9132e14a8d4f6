"""A port on this machine for an engine."""

import random
import socket
from collections.abc import Container

from engines.errors import LauncherError

# Below the range that Linux takes ports of outgoing connections from: nothing takes one of these by chance in the
# minute between the choice and the engine's own bind.
PORTS = range(20_000, 32_768)


def free_port(taken: Container[int], host: str = "127.0.0.1") -> int:
    """A port that nobody listens on and that is not among `taken`, from a random place in PORTS.

    vLLM binds with SO_REUSEPORT and would share a busy port without noticing, so the look has to be ours: a bind
    without that option. Raises LauncherError when every port is taken.
    """
    first = random.randrange(len(PORTS))  # noqa: S311 (spreads portals on one machine)
    for port in (*PORTS[first:], *PORTS[:first]):
        if port not in taken and can_bind(host, port):
            return port
    raise LauncherError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")


def can_bind(host: str, port: int) -> bool:
    """Whether nobody has the port, now; tells nothing of the next moment."""
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
