"""Which files of a repository vLLM reads. Pure.

By vLLM 0.32: `_prepare_weights` (model_executor/model_loader/default_loader.py) and `download_weights_from_hf`
(weight_utils.py) with the load format `auto`. What it reads beyond that, it fetches itself.
"""

import json
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from engines import adapters

INDEX = "model.safetensors.index.json"
LARGEST_INDEX = 64 << 20
LARGEST = 50 * 1000**3
"""Larger ones the hub gives to Xet's client alone."""
LARGEST_BESIDES = 256 << 20
"""A configuration or a tokenizer beyond that is none."""

_BESIDES = ("*.json", "*.txt", "*.model", "*.model.v*", "*.jinja", "*.py", "*.tiktoken")
_NOT_READ = ("original/*", "onnx/*", "openvino/*", ".*")
_MISTRAL = "consolidated*.safetensors"
_IN_TURN = ("*.safetensors", "*.bin", "*.pt")
_BLOB = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_LONGEST_PATH = 1000


class File(NamedTuple):
    """`blob`: SHA-256 of its content, or for a small one git's hash; also its name in the cache."""

    path: str
    size: int
    blob: str


def file(path: Any, size: Any, blob: Any) -> File | None:
    """None: no file that may be put into the cache, whoever says so."""
    if not (isinstance(path, str) and isinstance(blob, str) and isinstance(size, int) and size >= 0):
        return None
    parts = path.split("/")
    harmless = path.isprintable() and "\\" not in path and len(path) <= _LONGEST_PATH
    if not harmless or any(part in ("", ".", "..") for part in parts) or not _BLOB.match(blob):
        return None
    return File(path, size, blob)


def besides(listing: Iterable[File]) -> list[File]:
    """All but the weights: configuration, index, tokenizer, templates, code."""
    return [one for one in _read(listing) if _is(one, _BESIDES) and one.size <= LARGEST_BESIDES]


def weights(listing: Iterable[File], index: bytes | None) -> list[File]:
    """`index`: the content of INDEX, None where there is none."""
    listing = _read(listing)
    if mistral := [one for one in listing if fnmatchcase(one.path, _MISTRAL)]:
        return mistral
    if index is not None and (named := _named(index)):
        return [one for one in listing if one.path in named]
    for pattern in _IN_TURN:
        if any(fnmatchcase(one.path, pattern) for one in listing if "/" not in one.path):
            return [one for one in listing if fnmatchcase(one.path, pattern)]
    return []


def of_adapter(listing: Iterable[File]) -> list[File]:
    """Those of a LoRA adapter, as far as they are there: no code, and no weights in Python's pickles."""
    return [one for one in listing if one.path in adapters.FILES]


def _read(listing: Iterable[File]) -> list[File]:
    return [one for one in listing if not _is(one, _NOT_READ)]


def _is(one: File, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(one.path, pattern) for pattern in patterns)


def _named(index: bytes) -> set[str]:
    """Empty: it is no index, or names nothing; vLLM then takes all safetensors."""
    try:
        return {name for name in json.loads(index)["weight_map"].values() if isinstance(name, str)}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return set()
