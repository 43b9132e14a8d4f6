"""One file of a commit into the Hugging Face cache, from where it ended.

    blobs/<hash>.incomplete -> blobs/<hash> <- snapshots/<commit>/<path>

Engines may write where it lies. So no link is followed, and what is found there counts once its hash is right.
"""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO

from engines import hub_cache
from engines.downloads.failures import Broken
from engines.downloads.files import File

CHUNK = 8 << 20


class Cached:
    """A commit in the cache."""

    def __init__(self, cache: Path, name: str, commit: str) -> None:
        self.hub = cache / "hub"
        self.repository = self.hub / hub_cache.folder_of(name)
        self._locks = self.hub / ".locks" / hub_cache.folder_of(name)
        self._snapshot = hub_cache.snapshot(cache, name, commit)

    def pointer(self, one: File) -> Path:
        return self._snapshot / one.path

    def blob(self, one: File) -> Path:
        return self.repository / "blobs" / one.blob

    def partial(self, one: File) -> Path:
        return self.blob(one).with_name(f"{one.blob}.incomplete")

    def lock(self, one: File) -> Path:
        """huggingface_hub's own, so that an engine that downloads by itself and the portal take turns."""
        return self._locks / f"{one.blob}.lock"

    def has(self, one: File) -> bool:
        return size_of(self.pointer(one)) == one.size

    def has_blob(self, one: File) -> bool:
        return size_of(self.blob(one)) == one.size

    def bytes_of(self, one: File) -> int:
        """How many of them are there."""
        if self.has(one) or self.has_blob(one):
            return one.size
        try:
            return min(self.partial(one).lstat().st_size, one.size)
        except OSError:
            return 0

    def folder_for(self, path: Path) -> Path:
        """Makes the folder of a file. Raises PermissionError where it leads out of the repository's."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(self.hub.resolve() / self.repository.name):
            raise PermissionError(13, "a link leads out of the cache", str(path.parent))
        return path.parent

    def link(self, one: File) -> None:
        pointer = self.pointer(one)
        folder = self.folder_for(pointer)
        draft = folder / f".{secrets.token_hex(8)}.link"
        draft.symlink_to(os.path.relpath(self.blob(one), folder))
        draft.replace(pointer)


def fetch(one: File, into: Cached, pour: Callable[[File, "Partial"], None], counted: Callable[[int], None]) -> None:
    """`pour` writes what is missing. `counted` hears of bytes that came, and, below zero, of those that are void.
    Whoever else fetches the file is waited for. Raises what `pour` raises, then what came stays; and Broken."""
    from huggingface_hub.utils import WeakFileLock

    if into.has(one):
        return
    into.folder_for(into.blob(one))
    into.lock(one).parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(into.lock(one)):
        if not into.has_blob(one):
            _complete(one, into, pour, counted)
        into.link(one)


def _complete(one: File, into: Cached, pour: Callable[[File, "Partial"], None], counted: Callable[[int], None]) -> None:
    path = into.partial(one)
    with _opened(path) as file:
        partial = Partial(file, one, counted)
        try:
            pour(one, partial)
            if not partial.is_right():
                raise Broken(f"{one.path} is not what its commit says.")
        except Broken:
            partial.seek(0)
            partial.truncate()
            raise
        os.fsync(file.fileno())
        path.replace(into.blob(one))
    for left in path.parent.glob(f"{one.blob}.*.incomplete"):  # of downloads by engines that were killed
        left.unlink(missing_ok=True)


def _opened(path: Path) -> BinaryIO:
    """Raises OSError where it is no plain file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermissionError(13, "no plain file", str(path))
    return os.fdopen(descriptor, "r+b")


class Partial:
    """A file that is not all there yet, as `http_get` wants one to write to. It never grows beyond its size, whatever
    is sent."""

    def __init__(self, file: BinaryIO, one: File, counted: Callable[[int], None]) -> None:
        self._file, self._one, self._counted = file, one, counted
        self._hash = self._empty()
        self.size = 0
        while piece := file.read(CHUNK):
            self._hash.update(piece)
            self.size += len(piece)
        if self.size > one.size:
            self.seek(0)
            self.truncate()

    def write(self, piece: bytes) -> int:
        if self.size + len(piece) > self._one.size:
            raise Broken(f"The hub sends more of {self._one.path} than its commit has.")
        self._file.write(piece)
        self._file.flush()
        self._hash.update(piece)
        self.size += len(piece)
        self._counted(len(piece))
        return len(piece)

    def tell(self) -> int:
        return self.size

    def seek(self, position: int) -> int:
        """To the beginning, from where all of it comes once more."""
        if position:
            raise ValueError("a download goes on at its end, or begins")
        self._counted(-min(self.size, self._one.size))
        self.size, self._hash = 0, self._empty()
        return self._file.seek(0)

    def truncate(self) -> int:
        return self._file.truncate(0)

    def is_right(self) -> bool:
        return self.size == self._one.size and self._hash.hexdigest() == self._one.blob

    def _empty(self) -> Any:
        if len(self._one.blob) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self._one.size, usedforsecurity=False)  # git's


def size_of(path: Path) -> int | None:
    """Of a plain file, or where a link leads to one; None: there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size if S_ISREG(stat.st_mode) else None
