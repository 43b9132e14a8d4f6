"""A folder of something that runs, whose processes hold its lock: decision 0004."""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


class LockedFolder:
    """A view of the folder; nothing is kept in memory, other processes change it at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[int | None]:
        """Takes the lock for the block, without waiting: the descriptor, or None when somebody else has it or the
        directory is gone. A child that inherits the descriptor keeps the lock after the block."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            yield None
            return
        try:
            yield descriptor if self._lock(descriptor) else None
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been thrown away between the open and the lock; such a lock says nothing.
            return self._is_current(descriptor)
        except BlockingIOError:
            return False

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), (self.path / "lock").stat())
        except FileNotFoundError:
            return False

    def is_locked(self) -> bool:
        """Whether a starter or something of what runs lives. Looks by a shared lock, so that two who look at once
        do not see each other."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def remove(self) -> None:
        """At once for all who look: first it has another name, with a leading dot, then it is deleted."""
        doomed = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        self.path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
