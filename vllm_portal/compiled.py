"""The hot path as machine code: compiled ahead of time, by Cython, from the same sources that Python runs elsewhere.

    sources ── vllm_portal.compiling ── .compiled/<digest of the sources>/<module>.so ── imported in their place
       └────── no compiler, or changed since ────────────────────────────────────────── imported as they are

Changed sources have another digest, so what runs is never older than what one reads.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".compiled"
MODULES = (
    "inference.admission",
    "inference.answer_head",
    "inference.asking",
    "inference.body",
    "inference.breaker",
    "inference.call",
    "inference.callers",
    "inference.digits",
    "inference.endpoints.base",
    "inference.endpoints.chat",
    "inference.endpoints.completions",
    "inference.endpoints.generation",
    "inference.exchange",
    "inference.fair_line",
    "inference.front",
    "inference.journal",
    "inference.ledger_link",
    "inference.limits",
    "inference.media",
    "inference.outgoing",
    "inference.pool",
    "inference.relay",
    "inference.request_head",
    "inference.reserving",
    "inference.routing",
    "inference.sse",
    "inference.upstream",
    "inference.waiting",
    "inference.watch",
    "vllm_portal.ids",
)
"""What each request and each chunk passes. The types of their classes stand beside them, in .pxd files."""
SWITCH = "VLLM_PORTAL_COMPILED"
"""An environment variable; "0": the sources are run as they are. Not a setting: it must be known before any is read."""


def source(module: str) -> Path:
    return ROOT / (module.replace(".", "/") + ".py")


def digest() -> str:
    """Of all that decides what is compiled: the sources, how they are compiled, and for which Python and machine."""
    found = hashlib.sha256(EXTENSION_SUFFIXES[0].encode())
    for path in (ROOT / "requirements/build.txt", Path(__file__).with_name("compiling.py"), *map(source, MODULES)):
        for part in (path, path.with_suffix(".pxd")):
            data = part.read_bytes() if part.exists() else b""
            found.update(b"%d:%b" % (len(data), data))
    return found.hexdigest()[:16]


class Compiled:
    """A finder of modules, for `sys.meta_path`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in MODULES:
            return None
        return spec_from_file_location(name, self._folder / (name + EXTENSION_SUFFIXES[0]))


def folder() -> Path:
    """Where the modules of these sources lie once they are compiled."""
    return FOLDER / digest()


def wanted() -> Path | None:
    """Where the modules lie that processes which are started now run; None: they run the sources."""
    if os.environ.get(SWITCH) == "0":
        return None
    place = folder()
    return place if place.is_dir() else None


def use() -> None:
    """From now on the compiled modules are imported, where they are there."""
    if not is_used() and (place := wanted()):
        sys.meta_path.insert(0, Compiled(place))


def is_used() -> bool:
    """Whether this process does."""
    return any(isinstance(finder, Compiled) for finder in sys.meta_path)
