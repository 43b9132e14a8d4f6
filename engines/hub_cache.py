"""The Hugging Face cache of this machine: `hub/models--<owner>--<name>/refs/<revision>` names a commit, whose files
are in `snapshots/<commit>`."""

import re
from pathlib import Path

from engines import contained
from engines.vllm_command import is_model_name

_PREFIX = "models--"
COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_LONGEST_REF = 100


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
