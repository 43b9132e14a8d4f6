"""What a process has settled, kept where a `kill -9` does not reach: in a file that is mapped into its memory.

    settle ── append ── the client has its answer ── Redis, with the next call
       └ killed anywhere: whoever finds the file without its lock sends again what it holds (`inference.inheritance`)

A write costs no system call: the pages belong to the kernel once they are written to, whatever becomes of the process.
The file has two halves that are filled in turn, so it holds at least the last half's worth. An entry counts when its
number follows the one before, and its number is written last: one that was cut off by the kill is not there.
"""

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vllm_portal.ids import new_id

HALF_BYTES = 8 * 2**20
_HEAD = struct.Struct("<IQQQ")  # size, user, Unix time in ms, number


class Entry(NamedTuple):
    when_ms: int
    user_id: int
    operation: bytes
    """As the live ledger reads it."""


class Journal:
    """Of one event loop, which the ledger knows as `process`. Without a directory it is memory alone."""

    def __init__(self, directory: Path | None = None, half_bytes: int = HALF_BYTES) -> None:
        """Raises OSError where the file cannot be made; its room is taken at once, so that writing cannot fail."""
        self.process = new_id()
        self._path = None if directory is None else directory / self.process
        self._half = half_bytes
        self._file = -1 if self._path is None else _make(self._path, 2 * half_bytes)
        self._map = mmap.mmap(self._file, 2 * half_bytes)
        self._at = 0
        self._end = half_bytes
        self._number = 0

    def append(self, when_ms: int, user_id: int, operation: bytes) -> None:
        at = self._at + _HEAD.size
        end = at + len(operation)
        if end > self._end:
            self._at = self._end % (2 * self._half)
            self._end = self._at + self._half
            at = self._at + _HEAD.size
            end = at + len(operation)
        self._number += 1
        self._map[at:end] = operation
        _HEAD.pack_into(self._map, self._at, len(operation), user_id, when_ms, self._number)
        self._at = end

    def since(self, when_ms: int) -> list[Entry]:
        """What was written then and later, as far as it is still there, in order."""
        return [entry for entry in _entries(self._map, self._half) if entry.when_ms >= when_ms]

    def close(self, *, keep: bool = False) -> None:
        """The file goes, unless somebody is to `inherit` what it holds."""
        self._map.close()
        if self._path is not None:
            if not keep:
                self._path.unlink(missing_ok=True)
            os.close(self._file)


class Dead(NamedTuple):
    """The journal of a process that ended without closing it."""

    process: bytes
    entries: list[Entry]


@contextlib.contextmanager
def inherited(path: Path) -> Iterator[Dead | None]:
    """None: its process lives, or somebody else is at it. It is removed when the block ends well."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield None
        return
    try:
        if not _lock(file) or not path.exists():  # somebody may have removed it just now
            yield None
            return
        size = os.fstat(file).st_size
        with mmap.mmap(file, size, access=mmap.ACCESS_READ) as content:
            entries = list(_entries(content, size // 2))
        yield Dead(path.name.encode(), entries)
        path.unlink(missing_ok=True)
    finally:
        os.close(file)


def left_in(directory: Path) -> list[Path]:
    """The journals there, of the living and the dead."""
    return sorted(path for path in directory.glob("[!.]*") if path.is_file())


def _make(path: Path, size: int) -> int:
    """Under its name there is only a file that is locked: else it would look like a dead process's."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_name("." + path.name)
    file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
        else:  # macOS
            os.ftruncate(file, size)
        _lock(file)
        draft.rename(path)
    except BaseException:
        os.close(file)
        draft.unlink(missing_ok=True)
        raise
    return file


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _entries(content: mmap.mmap, half: int) -> list[Entry]:
    halves = [_half(content, start, start + half) for start in (0, half)]
    return [entry for _, entries in sorted(halves, key=lambda found: found[0]) for entry in entries]


def _half(content: mmap.mmap, at: int, end: int) -> tuple[int, list[Entry]]:
    """The number of the first entry, and all that follow it without a gap."""
    first, entries = 0, []
    while at + _HEAD.size <= end:
        size, user_id, when_ms, number = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        if not number or (first and number != first + len(entries)) or at + size > end:
            break
        first = first or number
        entries.append(Entry(when_ms, user_id, content[at : at + size]))
        at += size
    return first, entries
