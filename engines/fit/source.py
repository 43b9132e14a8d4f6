"""Where a model's files are described: a folder, the Hugging Face cache of this machine, the hub. No database.

A folder and the cache answer without a network. What they hold may have been written by an engine, so nothing is read
that is no plain file inside, and nothing without a bound.
"""

import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import contained, hub_cache
from engines.fit.weights import Weights
from engines.hub import LARGEST_CONFIG, Repository

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
LARGEST_INDEX = 64 << 20
LARGEST_HEADERS = 64 << 20
"""Of all safetensors files together; DeepSeek-V3, with 91,991 tensors in 163 files, has 10 MB."""
MOST_FILES = 10_000
_NOT_LOADED = ("consolidated", "adapter_", "training_", "optimizer", "scheduler")
"""vLLM loads what the index names; Mistral's `consolidated` files hold the same weights a second time."""


class Unreadable(ValueError):
    """The message is one sentence for people."""


@dataclass(frozen=True)
class Description:
    """`config`: the parsed file. `weights` None: nobody knows. `commit`: of the hub's repository, "" for a folder."""

    config: Any
    weights: Weights | None
    commit: str = ""


def from_folder(folder: Path, commit: str = "") -> Description:
    """Raises Unreadable."""
    inside = folder.resolve().parent.parent if commit else folder.resolve()
    content = contained.read(folder / CONFIG, inside, LARGEST_CONFIG)
    if content is None:
        raise Unreadable("It has no config.json that can be read.")
    return Description(_parse(content), _weights_of_folder(folder, inside), commit)


def from_cache(cache: Path, name: str, revision: str = "") -> Description | None:
    """None: the cache does not have that revision. Raises Unreadable."""
    commit = hub_cache.commit_of(cache, name, revision)
    if not commit:
        return None
    snapshot = hub_cache.snapshot(cache, name, commit)
    return from_folder(snapshot, commit) if (snapshot / CONFIG).is_file() else None


def from_hub(repository: Repository) -> Description:
    """Raises Unreadable."""
    if repository.config is None:
        raise Unreadable("Its repository has no config.json, so it is no whole model.")
    if len(repository.config) > LARGEST_CONFIG:
        raise Unreadable("Its config.json is too large to be one.")
    size = sum(repository.file_bytes[name] for name in weight_files(repository.file_bytes))
    weights = Weights(size, repository.parameters) if size else None
    return Description(_parse(repository.config), weights, repository.commit)


def weight_files(sizes: Mapping[str, int]) -> list[str]:
    """Those that vLLM loads, of the files at the top: safetensors if there are any, else PyTorch's."""
    top = [name for name in sizes if "/" not in name and not name.startswith(_NOT_LOADED)]
    safetensors = [name for name in top if name.endswith(".safetensors")]
    torch = [name for name in top if name.endswith((".bin", ".pt")) and "model" in name]
    return safetensors or torch or [name for name in sizes if name.startswith("consolidated") and "/" not in name]


def _weights_of_folder(folder: Path, inside: Path) -> Weights | None:
    sizes = _sizes(folder, inside)
    index = _index(folder, inside)
    if index is not None:
        named, total = index
        if total and not named <= sizes.keys():
            return Weights(total)  # not all of it is here
        sizes = {name: size for name, size in sizes.items() if name in named} or sizes
    names = weight_files(sizes)
    if not names:
        return None
    return Weights(sum(sizes[name] for name in names), _parameters(folder, inside, names))


def _sizes(folder: Path, inside: Path) -> dict[str, int]:
    found = {}
    try:
        for number, path in enumerate(folder.iterdir()):
            if number >= MOST_FILES:
                break
            if path.suffix in (".safetensors", ".bin", ".pt", ".pth") and contained.is_inside(path, inside):
                found[path.name] = path.stat().st_size
    except OSError:
        return {}
    return found


def _index(folder: Path, inside: Path) -> tuple[set[str], int] | None:
    """(the files that it names, the bytes of the weights or 0)."""
    content = contained.read(folder / INDEX, inside, LARGEST_INDEX)
    try:
        index = json.loads(content) if content else None
        names = {name for name in index["weight_map"].values() if isinstance(name, str)} if index else set()
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    metadata = index.get("metadata") if index else None
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    is_size = isinstance(total, int) and not isinstance(total, bool) and 0 < total < 2**62
    return (names, total if is_size else 0) if names else None


def _parameters(folder: Path, inside: Path, names: list[str]) -> dict[str, int]:
    """Numbers by type, from the heads of the files; {} where one cannot be read."""
    found: Counter[str] = Counter()
    left = LARGEST_HEADERS
    for name in names:
        header = _header(folder / name, inside, left) if name.endswith(".safetensors") else None
        if header is None:
            return {}
        left -= len(header)
        try:
            tensors = json.loads(header)
            for key, tensor in tensors.items():
                if key != "__metadata__":
                    found[str(tensor["dtype"])] += _count(tensor["shape"])
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return {}
    return dict(found)


def _header(path: Path, inside: Path, most: int) -> bytes | None:
    if not contained.is_inside(path, inside):
        return None
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return file.read(length) if length <= most else None
    except (OSError, struct.error):
        return None


def _count(shape: list[int]) -> int:
    count = 1
    for size in shape:
        if not isinstance(size, int) or not 0 <= size < 2**40:
            raise ValueError("no size of a tensor")
        count *= size
        if count > 2**62:
            raise ValueError("no number of weights")
    return count


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Unreadable("Its config.json is no JSON.") from None
