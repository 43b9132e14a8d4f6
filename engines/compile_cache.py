"""What engines compile (torch.compile, Triton, FlashInfer, the CUDA driver) is kept for the next ones.

    <data_dir>/compile-cache/<owner's id>/<launcher, image and device, hashed>

It is code, which the next engine loads and runs. So it is kept for each owner apart: else a model of one user could run
in the engines of another. Folders of engines that run, or come up, stay. Containers write as root: theirs stay, too,
of a portal that runs as another user, where the daemon has no image of an engine any more that could do it (`removal`).
"""

import hashlib
import logging
import os
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from accounts.models import User
from engines import removal
from engines.launchers import choice
from engines.models import Engine
from vllm_portal.config import get_config

logger = logging.getLogger(__name__)

_FOR_SURE = timedelta(hours=1)
"""A folder that was used so lately may be one of an engine that has just begun."""


class _Kept(NamedTuple):
    path: Path
    used_at: float
    size_bytes: int


def folder_of(engine: Engine) -> str | None:
    """None: nothing is kept for it. A colon would end the name of what Docker mounts."""
    path = _path(engine)
    return None if path is None or ":" in str(path) else str(path)


def make(engine: Engine) -> None:
    """Before each start; also notes that it is used. Where that fails the launcher makes it, or vLLM says so."""
    path = folder_of(engine)
    if path is None:
        return
    try:
        _root().mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(path).mkdir(parents=True, exist_ok=True)
        Path(path).chmod(0o777)  # images may run as any user; nobody else comes past the root
        os.utime(path)
    except OSError as error:
        logger.warning("the compile cache of engine %s cannot be made: %s", engine.name, error.strerror)


def delete_old(now: datetime) -> int:
    """How many went: what is too old, too much, or of nobody any more. Two at once share the work."""
    config, deleted = get_config(), 0
    for left in _root().glob(".removed-*"):  # by processes that died, or by none that could
        removal.remove(left)
    kept = sorted(_listed(), key=lambda one: one.used_at)
    total = sum(one.size_bytes for one in kept)
    used = {_path(engine) for engine in Engine.objects.awake()}
    owners = {str(pk) for pk in User.objects.values_list("pk", flat=True)}
    for one in kept:
        age = timedelta(seconds=now.timestamp() - one.used_at)
        too_old = config.compile_cache_days is not None and age > timedelta(days=config.compile_cache_days)
        too_much = config.compile_cache_gib is not None and total > config.compile_cache_gib * 2**30
        unwanted = not config.compile_cache or one.path.parent.name not in owners
        if one.path in used or age < _FOR_SURE or not (too_old or too_much or unwanted):
            continue
        if _delete(one.path):
            deleted += 1
            total -= one.size_bytes
    return deleted


def _path(engine: Engine) -> Path | None:
    kept = get_config().compile_cache and engine.launcher != "simulator" and choice.is_here(engine.launcher)
    if not kept or engine.owner_id is None:
        return None
    kind = hashlib.sha256("\n".join([engine.launcher, engine.image, engine.device]).encode()).hexdigest()
    return _root() / str(engine.owner_id) / kind[:16]


def _root() -> Path:
    return get_config().data_dir / "compile-cache"


def _listed() -> Iterator[_Kept]:
    for path in _root().glob("*/*"):
        try:
            if path.is_dir() and not path.parent.name.startswith("."):
                yield _Kept(path, path.stat().st_mtime, sum(_sizes(path)))
        except OSError:
            continue


def _sizes(path: Path) -> Iterator[int]:
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                yield Path(folder, name).lstat().st_size
            except OSError:
                continue


def _delete(path: Path) -> bool:
    """Aside first, which is one step: an engine that begins meanwhile gets a new folder."""
    if not removal.may_remove(path):
        logger.warning("the portal may not delete what engines compiled, who write it as root; as root: rm -r %s", path)
        return False
    aside = _root() / f".removed-{secrets.token_hex(8)}"
    try:
        path.rename(aside)
    except OSError as error:
        logger.warning("the compile cache %s stays: %s", path, error.strerror)
        return False
    return removal.remove(aside)
