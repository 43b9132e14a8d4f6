"""What the process launcher keeps of one engine on disk, and the lock that says whether it lives.

    lock        held by a starter, and from then on by every process of the engine; free: nothing of it lives
    meta.json   whose engine, and where it listens; written under the lock, before anything runs
    pid         of the shell that runs it; its first act. No pid: no engine ever ran here
    engine.log  stdout and stderr of all its processes
    hf_token    mode 0600, gone with the engine
    exit_code   written by the shell when vLLM's first process has ended

No secret is in meta.json. Everything is readable by the portal's own user alone.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.locked_folder import LockedFolder


@dataclass(frozen=True)
class Meta:
    portal: str
    engine: str
    generation: int
    host: str
    port: int


class EngineDirectory(LockedFolder):
    """Reading never fails because something is not there or half made: it is None then."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.log = path / "engine.log"
        self.token = path / "hf_token"

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
