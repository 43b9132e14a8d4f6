"""The Hugging Face cache of this machine: `hub/models--<owner>--<name>/refs/<revision>` names a commit, whose files
are in `snapshots/<commit>`."""

import json
import re
from pathlib import Path

from engines import contained
from engines.vllm_command import is_model_name

_PREFIX = "models--"
COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_LONGEST_REF = 100
_INDEX = "model.safetensors.index.json"
_LARGEST_INDEX = 64 << 20


def commit_of(cache: Path, name: str, revision: str = "") -> str:
    """That of the revision ("": main) when it was downloaded last. "": the cache does not have it."""
    if COMMIT.match(revision):
        return revision if snapshot(cache, name, revision).is_dir() else ""
    repository = cache / "hub" / folder_of(name)
    ref = contained.read(repository / "refs" / (revision or "main"), repository, _LONGEST_REF)
    commit = ref.decode("ascii", "replace").strip() if ref else ""
    return commit if COMMIT.match(commit) else ""


def snapshot(cache: Path, name: str, commit: str) -> Path:
    return cache / "hub" / folder_of(name) / "snapshots" / commit


def commits(repository: Path) -> list[str]:
    """Those of which something is there."""
    try:
        return sorted(path.name for path in (repository / "snapshots").iterdir() if COMMIT.match(path.name))
    except OSError:
        return []


def folder_of(name: str) -> str:
    return _PREFIX + name.replace("/", "--")


def model_of(folder: str) -> str:
    """ "": the folder is no model's."""
    name = folder.removeprefix(_PREFIX).replace("--", "/")
    return name if folder.startswith(_PREFIX) and is_model_name(name) else ""


def seems_whole(cache: Path, name: str, commit: str) -> bool:
    """It has a configuration and all weights that its index names, or some where there is none: an engine may come up
    without a hub. Only a hint; what is missing vLLM will say."""
    folder = snapshot(cache, name, commit)
    if not (folder / "config.json").is_file():
        return False
    index = contained.read(folder / _INDEX, cache / "hub" / folder_of(name), _LARGEST_INDEX)
    try:
        named = set(json.loads(index)["weight_map"].values()) if index else set()
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        named = set()
    if named:
        return all(isinstance(one, str) and (folder / one).is_file() for one in named)
    return any(path.is_file() for pattern in ("*.safetensors", "*.bin", "*.pt") for path in folder.glob(pattern))
