"""What the process launcher keeps of one engine on disk, and the lock that says whether it lives.

    lock        held by a starter, and from then on by every process of the engine; free: nothing of it lives
    meta.json   whose engine, and where it listens; written under the lock, before anything runs
    pid         of the shell that runs it; its first act. No pid: no engine ever ran here
    engine.log  stdout and stderr of all its processes
    hf_token    mode 0600, gone with the engine
    exit_code   written by the shell when vLLM's first process has ended

No secret is in meta.json. Everything is readable by the portal's own user alone.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Meta:
    portal: str
    engine: str
    generation: int
    host: str
    port: int


class EngineDirectory:
    """A view of the directory; nothing is kept in memory, other processes change it at any time.

    Reading never fails because something is not there or half made: it is None then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "engine.log"
        self.token = path / "hf_token"

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
        """Whether a starter or something of the engine lives. Looks by a shared lock, so that two who look at once
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

    def meta(self) -> Meta | None:
        try:
            return Meta(**json.loads((self.path / "meta.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write_meta(self, meta: Meta) -> None:
        draft = self.path / "meta.json.new"
        draft.write_text(json.dumps(asdict(meta)))
        draft.replace(self.path / "meta.json")

    def write_token(self, token: str) -> None:
        self.token.unlink(missing_ok=True)  # the mode counts only for a file that is made
        descriptor = os.open(self.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token)

    def pid(self) -> int | None:
        return self._number("pid")

    def exit_code(self) -> int | None:
        return self._number("exit_code")

    def _number(self, name: str) -> int | None:
        try:
            return int((self.path / name).read_text())
        except (OSError, ValueError):
            return None

    def remove(self) -> None:
        """At once for all who look: first it has another name, with a leading dot, then it is deleted."""
        doomed = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        self.path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
