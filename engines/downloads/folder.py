"""What is kept of one commit's download on disk, beside the cache, in a folder of the portal's own.

    <name>@<commit>/lock                 held by a starter, and from then on by the process that downloads
                    /engine              for which engine it does, and since when
                    /pid                 its process id
                    /progress.json       written twice a second
                    /outcome-<who>.json  how it ended for that engine; absent: it was killed
                    /log                 its stderr
    <name>@<commit>.json                 all files that vLLM needs of that commit, once they were all there

A commit of which an adapter is wanted has `.adapter` behind it: other files of it are needed.
Everything is readable by the portal's own user alone, and no token is in it.
"""

import json
import os
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines import hub_cache
from engines.downloads.files import File, file
from engines.locked_folder import LockedFolder

_OUTCOME_BYTES = 4096
_ADAPTER = ".adapter"


@dataclass(frozen=True)
class Progress:
    """Bytes of all files that are needed, those that were there before included. `total` 0: not known yet. `trouble`:
    why it does not go on now, in a few words; "": it does."""

    done: int = 0
    total: int = 0
    bytes_per_s: float = 0.0
    trouble: str = ""


@dataclass(frozen=True)
class Outcome:
    """`code` "": all is there. `words`: what is to be told of it, in a sentence."""

    code: str = ""
    words: str = ""


@dataclass(frozen=True)
class Order:
    """What the process is told. `engine`: in whose name it downloads; `cache`: HF_HOME; `adapter`: the files of a LoRA
    adapter are wanted, not those of a model."""

    engine: str
    folder: str
    cache: str
    name: str
    commit: str
    endpoint: str
    token: str = ""
    adapter: bool = False


class Download(LockedFolder):
    """Reading never fails because something is not there or half made: it is None then."""

    def __init__(self, downloads: Path, name: str, commit: str, adapter: bool = False) -> None:
        super().__init__(downloads / f"{hub_cache.folder_of(name)}@{commit}{_ADAPTER if adapter else ''}")
        self.name, self.commit = name, commit
        self.log = self.path / "log"
        self._files = self.path.with_name(f"{self.path.name}.json")

    def engine(self) -> str:
        """Whose it is; "": nobody's yet."""
        return str((_read(self.path / "engine") or {}).get("engine", ""))

    def age_s(self) -> float:
        """Since it was started last."""
        return time.time() - float((_read(self.path / "engine") or {}).get("at", 0.0))

    def write_engine(self, engine: str) -> None:
        write(self.path / "engine", {"engine": engine, "at": time.time()})

    def pid(self) -> int | None:
        """Of the process that downloads, or did: it may be another's by now."""
        pid = _read(self.path / "pid")
        return pid if isinstance(pid, int) else None

    def write_pid(self) -> None:
        write(self.path / "pid", os.getpid())

    def progress(self) -> Progress:
        try:
            return Progress(**(_read(self.path / "progress.json") or {}))
        except TypeError:
            return Progress()

    def write_progress(self, progress: Progress) -> None:
        write(self.path / "progress.json", asdict(progress))

    def outcome(self, engine: str) -> Outcome | None:
        try:
            told = _read(self._outcome(engine))
            return None if told is None else Outcome(**told)
        except TypeError:
            return None

    def promise_outcome(self, engine: str) -> None:
        """Takes the room that it needs, for by then the disk may be full."""
        self._outcome(engine).write_bytes(b"null".ljust(_OUTCOME_BYTES))

    def write_outcome(self, engine: str, outcome: Outcome) -> None:
        """Into the room that was promised."""
        with self._outcome(engine).open("r+b") as file:
            file.write(json.dumps(asdict(outcome)).encode().ljust(_OUTCOME_BYTES))

    def forget_outcome(self, engine: str) -> None:
        self._outcome(engine).unlink(missing_ok=True)

    def files(self) -> list[File] | None:
        """What vLLM needs of the commit, which never changes. None: that was not found out yet."""
        files = read_files(self._files)
        if files is not None:
            with suppress(OSError):
                os.utime(self._files)  # see forget_older_than
        return files

    def write_files(self, files: Iterable[File]) -> None:
        write(self._files, [list(one) for one in files])

    def _outcome(self, engine: str) -> Path:
        return self.path / f"outcome-{engine}.json"


def in_folder(downloads: Path) -> list[Download]:
    """Those of which more is kept than the files that were needed."""
    try:
        paths = sorted(path for path in downloads.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    found = []
    for path in paths:
        name, _, rest = path.name.partition("@")
        model, commit, adapter = hub_cache.model_of(name), rest.removesuffix(_ADAPTER), rest.endswith(_ADAPTER)
        if model and hub_cache.COMMIT.match(commit):
            found.append(Download(downloads, model, commit, adapter))
    return found


def forget_older_than(downloads: Path, before: float) -> None:
    """Lists of files that nobody has asked for since then; who does finds them out anew."""
    for path in downloads.glob("*@*.json"):
        with suppress(OSError):
            if path.stat().st_mtime < before:
                path.unlink()


def read_files(path: Path) -> list[File] | None:
    told = _read(path)
    if not isinstance(told, list):
        return None
    files = [file(*one) if isinstance(one, list) and len(one) == 3 else None for one in told]
    return None if None in files else [one for one in files if one]


def write(path: Path, content: Any) -> None:
    """As a whole, or not at all; two at once are fine."""
    draft = path.with_name(f".{secrets.token_hex(8)}.new")
    draft.write_text(json.dumps(content))
    draft.replace(path)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
