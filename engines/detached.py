"""Processes that outlive whoever starts them: a session of their own, their output in a log, and a lock that lives as
long as any of them. No database here."""

import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

# Those that this process started, to be waited for when they have ended; else they would stay as zombies.
_children: list["subprocess.Popen[bytes]"] = []
_children_lock = threading.Lock()


def spawn(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    log: BinaryIO,
    lock: int,
    stdin: int = subprocess.DEVNULL,
) -> "subprocess.Popen[bytes]":
    """`environment` is all that it gets. `lock`: a descriptor, which it inherits. Raises OSError."""
    child = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=stdin,
        stdout=log,
        stderr=log,
        start_new_session=True,
        pass_fds=[lock],
    )
    with _children_lock:
        _children.append(child)
    return child


def reap() -> None:
    """Waits for those that have ended; `poll` of a Popen does, and never blocks."""
    with _children_lock:
        _children[:] = [child for child in _children if child.poll() is None]
