"""What the Hugging Face cache of this machine holds, and how a model goes out of it.

Its files were written by engines, so links are neither followed nor counted, and names are checked before they become
paths. A model is moved aside first, which is one step, and deleted then: who starts an engine meanwhile finds all of it
or nothing, and what a killed process left aside is deleted with the next one.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from django.db.models import Max

from engines import hub_cache
from engines.launchers.container_config import cache_folder
from engines.models import Engine
from vllm_portal.config import get_config
from vllm_portal.errors import Conflict, NotFound

_ASIDE = ".removed-"
_FOR_SURE = timedelta(minutes=5)


class CachedModel(NamedTuple):
    """`size_bytes` of all its files; `unfinished_bytes`: of those whose download has not ended. `commits`: whose files
    are there. `engines`: names of those that run, or come up, with it."""

    id: str
    model: str
    size_bytes: int
    unfinished_bytes: int
    commits: list[str]
    engines: list[str]
    started_at: datetime | None


class Disk(NamedTuple):
    """Of the cache's file system."""

    folder: str
    size_bytes: int
    free_bytes: int


def listed() -> list[CachedModel]:
    """The largest first. Raises Conflict where the portal cannot look."""
    in_use = _engines_by_model()
    starts = dict(Engine.objects.order_by().values_list("model").annotate(Max("created_at")))
    found = []
    for path in _repositories():
        model = hub_cache.model_of(path.name)
        sizes = list(_files(path))
        found.append(
            CachedModel(
                id=model.replace("/", "--"),
                model=model,
                size_bytes=sum(size for _, size in sizes),
                unfinished_bytes=sum(size for name, size in sizes if name.endswith(".incomplete")),
                commits=hub_cache.commits(path),
                engines=sorted(in_use.get(model, ())),
                started_at=starts.get(model),
            )
        )
    return sorted(found, key=lambda one: (-one.size_bytes, one.model))


def names() -> set[str]:
    """Of the models alone, without a look at their files; empty where the portal cannot look."""
    try:
        return {hub_cache.model_of(path.name) for path in _repositories()}
    except Conflict:
        return set()


def disk() -> Disk:
    """Raises Conflict."""
    folder = _hub()
    usage = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir()))
    return Disk(str(folder), usage.total, usage.free)


def remove(identity: str, now: datetime) -> CachedModel:
    """What it was. Raises NotFound, and Conflict where an engine has it or the portal may not delete it; then all of it
    is still there."""
    found = next((one for one in listed() if one.id == identity), None)
    if found is None:
        raise NotFound("The cache has no such model.")
    hub = _hub()
    path = hub / hub_cache.folder_of(found.model)
    _refuse_in_use(found.model)
    if not all(os.access(folder, os.W_OK | os.X_OK) for folder in (hub, path, *_folders(path))):
        raise Conflict(
            f"The portal may not delete {path}: engines in containers write it as root. As root: rm -r {path}"
        )
    aside = hub / f"{_ASIDE}{secrets.token_hex(8)}"
    try:
        path.rename(aside)
    except OSError as error:
        raise Conflict(f"{path} cannot be moved: {error.strerror}. Try again.") from None
    try:
        _refuse_in_use(found.model)  # who has come since finds nothing, and downloads it
    except Conflict:
        if not path.exists():
            aside.rename(path)
        raise
    for left in {aside, *_left_aside(hub, now)}:
        shutil.rmtree(left, ignore_errors=True)
    return found


def _left_aside(hub: Path, now: datetime) -> Iterator[Path]:
    """By processes that died. What has just been moved, somebody else may still move back."""
    for path in hub.glob(f"{_ASIDE}*"):
        with suppress(FileNotFoundError):
            if path.lstat().st_ctime < (now - _FOR_SURE).timestamp():
                yield path


def _refuse_in_use(model: str) -> None:
    engines = sorted(_engines_by_model().get(model, ()))
    if engines:
        raise Conflict(f"{model} is in use by {', '.join(engines)}: stop {'them' if len(engines) > 1 else 'it'} first.")


def _engines_by_model() -> dict[str, set[str]]:
    """Names of engines that run, or may come to, by the repositories that they read."""
    found: dict[str, set[str]] = {}
    for name, adapters, *read in Engine.objects.awake().values_list("name", "adapters", "model", "tokenizer"):
        for model in filter(None, [*read, *(adapter["model"] for adapter in adapters)]):
            found.setdefault(model, set()).add(name)
    return found


def _hub() -> Path:
    cache = cache_folder(get_config().hf_cache_dir)
    if cache is None:
        raise Conflict(
            f"hf_cache_dir is the Docker volume {get_config().hf_cache_dir}, into which the portal cannot look: "
            "make it a folder."
        )
    return cache / "hub"


def _repositories() -> list[Path]:
    hub = _hub()
    try:
        return [path for path in hub.iterdir() if _is_model(path)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Conflict(f"The portal may not look into {hub}: {error.strerror}.") from None


def _is_model(path: Path) -> bool:
    return bool(hub_cache.model_of(path.name)) and path.is_dir() and not path.is_symlink()


def _files(path: Path) -> Iterator[tuple[str, int]]:
    """(name, bytes) of the plain files; what vanishes meanwhile is left out."""
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                stat = Path(folder, name).lstat()
            except OSError:
                continue
            if S_ISREG(stat.st_mode):
                yield name, stat.st_size


def _folders(path: Path) -> Iterator[Path]:
    for folder, below, _ in os.walk(path):
        yield from (Path(folder, name) for name in below if not Path(folder, name).is_symlink())
