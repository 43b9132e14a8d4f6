"""Folders that engines wrote into go, also what containers wrote there as root and the portal may not touch: root in a
container of an engine's image removes it."""

import logging
import os
import shutil
from pathlib import Path

from django.db.models import Max

from engines.launchers import choice
from engines.models import Engine
from vllm_portal.errors import OperatorError

logger = logging.getLogger(__name__)

_IMAGES = 5


def may_remove(folder: Path) -> bool:
    """Whether `remove` will do: all of it is the portal's to remove, or there is an image that can."""
    return _is_ours(folder) or _image() is not None


def remove(folder: Path) -> bool:
    """Nobody may use it any more: it goes piece by piece. False: some of it is left, and the log says what can be done.
    May take a minute; two at once are fine."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists() and (image := _image()):
        try:
            choice.launcher("docker").empty(str(folder), image)
        except OperatorError as error:
            logger.warning("what containers left in %s could not be removed by one: %s", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        logger.warning("the portal may not delete what containers wrote as root; as root: rm -r %s", folder)
    return not folder.exists()


def _is_ours(folder: Path) -> bool:
    folders = [folder, *(Path(inside, name) for inside, below, _ in os.walk(folder) for name in below)]
    return all(os.access(one, os.W_OK | os.X_OK) for one in folders if not one.is_symlink())


def _image() -> str | None:
    """One of an engine that the daemon has still, the latest first. None: no engine was a container, or it is away."""
    rows = Engine.objects.filter(launcher="docker").exclude(image="").order_by()
    latest = rows.values("image").annotate(at=Max("created_at")).order_by("-at")[:_IMAGES]
    try:
        launcher = choice.launcher("docker") if latest else None
        return next((row["image"] for row in latest if launcher and not launcher.lacks(row["image"])), None)
    except OperatorError as error:
        logger.warning("no container can remove anything now: %s", error)
        return None
