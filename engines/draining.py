"""What an engine answers ends before the engine does, whoever stops it: decision 0033.

STOPPING ── out of the routes ── nothing runs on it, or `deadline_at` ── SIGTERM …
"""

from datetime import datetime, timedelta
from typing import Any

from engines import health
from engines.launchers import choice
from engines.launchers.base import Status
from engines.models import Engine
from engines.states import State
from vllm_portal.config import get_config
from vllm_portal.errors import OperatorError

LOOK_S = 0.5


def begin(engine: Engine, now: datetime, at_once: bool = False) -> dict[str, Any]:
    """Columns of one that is asked to end in the state that it is in: until when what it answers may go on.
    `deadline_at` None: it answers nobody, or is not to."""
    seconds = get_config().stop_drain_seconds
    falls_asleep = engine.state == State.SLEEPING and engine.slept_at is None
    until = None
    if engine.state == State.STOPPING:
        until = engine.deadline_at
    elif falls_asleep or engine.state in (State.READY, State.UNHEALTHY):
        until = now + timedelta(seconds=seconds)
    if until is None or at_once or not seconds:
        return {"deadline_at": None, "detail": ""}
    return {"deadline_at": until, "detail": f"its answers may end first, for {seconds} s at most"}


def again_in_s(engine: Engine, now: datetime, known: timedelta) -> float | None:
    """In how many seconds to look again at one that is STOPPING and still works for somebody whose request came before
    it left the routes. None: it may end. `known`: so long after it left them such a request may still come.

    One that does not tell may be too busy to, unless it has not answered for long."""
    if engine.deadline_at is None or now >= engine.deadline_at or not engine.port:
        return None
    if (wait := engine.state_since + known - now) > timedelta(0):
        return wait.total_seconds()
    told = health.told(engine.host, engine.port)
    busy = told.running + told.waiting > 0 if told else engine.missed_checks < health.MISSES and _runs(engine)
    return LOOK_S if busy else None


def _runs(engine: Engine) -> bool:
    try:
        seen = choice.launcher(engine.launcher).poll(engine.container_name)
    except OperatorError:
        return True
    return seen.status not in (Status.EXITED, Status.GONE)
