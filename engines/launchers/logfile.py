"""An engine's log as a file: its two ends for people, a bound while it grows, a copy for afterwards.

The start of a log says how the engine was configured and often why it failed, the end what it did last; what is
left out is always the middle.
"""

import os
import shutil
from pathlib import Path


def join_ends(head: bytes, tail: bytes) -> bytes:
    """Both ends of a log with a line between them; cut at line ends where there are some, so that no line looks
    complete and is not."""
    head = head[: head.rfind(b"\n") + 1] or head + b"\n"
    tail = tail[tail.find(b"\n") + 1 :] or tail
    return head + "[… the middle of this log is left out …]\n".encode() + tail


def read_ends(path: Path, max_bytes: int) -> bytes:
    """The whole file, or its two ends of max_bytes / 2 each. Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= max_bytes:
            return file.read(max_bytes)
        head = file.read(max_bytes // 2)
        file.seek(size - max_bytes // 2)
        tail = file.read(max_bytes // 2)
    return join_ends(head, tail)


def as_text(log: bytes) -> str:
    return log.decode("utf-8", errors="replace")


def bound(path: Path, max_bytes: int) -> None:
    """Takes the middle out of a log that has grown beyond max_bytes, while the engine writes on.

    The engine must have opened it for appending: its next line then follows what is left. A line written at this very
    moment may get lost. No log is fine. Raises OSError.
    """
    try:
        if path.stat().st_size <= max_bytes:
            return
    except FileNotFoundError:
        return
    kept = read_ends(path, max_bytes // 4)
    with path.open("ab") as file:
        file.truncate(0)
        file.write(kept)


def keep(source: Path, target: Path, max_bytes: int) -> None:
    """Moves the log of an engine that has ended to where it is kept, at most max_bytes of it. No log is fine, also
    when it was moved before. Raises OSError."""
    if not source.exists():
        return
    bound(source, max_bytes)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.move(source, target)
