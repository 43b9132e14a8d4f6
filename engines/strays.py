"""Containers and processes of this portal that no engine stands for: removed, at the second look.

They come from the smallest of windows (a worker killed between making a container and the engine's end, a database put
back from a backup). What was seen once is remembered in this process only: a restart of the worker delays the end of a
stray, and nothing else. What is not labelled as this portal's the launcher does not even list.
"""

import logging
import threading
import time
import uuid

from engines.launchers import choice
from engines.launchers.base import Listed
from engines.models import Engine
from engines.states import AWAKE
from vllm_portal.config import get_config
from vllm_portal.errors import OperatorError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
BETWEEN_LOOKS_SECONDS = 5.0

_lock = threading.Lock()
_first_seen: dict[tuple[str, str], float] = {}
_looked_at = float("-inf")


def sweep() -> None:
    """Looks every LOOK_SECONDS, however often it is called. Never raises LauncherError."""
    global _looked_at
    with _lock:
        if time.monotonic() - _looked_at < LOOK_SECONDS:
            return
        _looked_at = time.monotonic()
    launchers = {
        choice.chosen_name(),
        *Engine.objects.active().order_by().values_list("launcher", flat=True).distinct(),
    }
    for name in sorted(launchers):
        try:
            remove(name, twice_seen(name, strays(name)))
        except OperatorError as error:
            logger.warning("strays of the launcher %s stay for now: %s", name, error)


def strays(launcher: str) -> list[Listed]:
    """What the launcher holds and no active engine of that generation stands for. Raises LauncherError."""
    held = choice.launcher(launcher).list()
    if not held:
        return []
    awake = {(str(pk), generation) for pk, generation in Engine.objects.awake().values_list("pk", "generation")}
    return [listed for listed in held if (_canonical(listed.engine_id), listed.generation) not in awake]


def twice_seen(launcher: str, seen: list[Listed]) -> list[Listed]:
    """Those of them that an earlier look saw, too; the others are remembered, and what is gone is forgotten."""
    now = time.monotonic()
    with _lock:
        names = {(launcher, listed.name) for listed in seen}
        for known in [known for known in _first_seen if known[0] == launcher and known not in names]:
            del _first_seen[known]
        before = dict(_first_seen)
        for listed in seen:
            _first_seen.setdefault((launcher, listed.name), now)
    return [
        listed
        for listed in seen
        if (first := before.get((launcher, listed.name))) is not None and now - first >= BETWEEN_LOOKS_SECONDS
    ]


def remove(launcher: str, found: list[Listed]) -> None:
    """Raises LauncherError."""
    for stray in found:
        engine_id = _canonical(stray.engine_id)
        if Engine.objects.filter(pk=engine_id or None, generation=stray.generation, state__in=AWAKE).exists():
            continue
        logger.warning("removing %s, which no engine stands for", stray.name)
        choice.launcher(launcher).stop(stray.name, get_config().stop_grace_seconds)


def _canonical(engine_id: str) -> str:
    """ "" for what is no engine's id."""
    try:
        return str(uuid.UUID(engine_id))
    except ValueError:
        return ""
