"""How engines end: asked to, or failed.

A failure goes: save the cause, end what runs, FAILED. Each step can be repeated, and whoever finds an engine with a
saved cause goes on from there, so a portal killed between two steps leaves nothing half done: no container without a
row that knows of it, and no FAILED engine that still runs.
"""

import logging
import uuid
from datetime import datetime, timedelta
from functools import partial

from django.db import transaction
from django.utils import timezone

from engines import draining, engine_logs, hints, lifecycle, retrying, terms
from engines.diagnosis import Diagnosis
from engines.launchers import choice
from engines.models import Engine
from engines.states import ACTIVE, AWAKE, Desired, State
from engines.turns import turn
from vllm_portal.config import get_config
from vllm_portal.errors import OperatorError

logger = logging.getLogger(__name__)

HEARD, KNOWN = timedelta(seconds=1), timedelta(seconds=5)
"""By then each process of the data plane has been told that the engine is out of routing; has read it, whatever it
missed. Who stops one by hand does not wait for the second."""
PAUSES_S = (0, 0, 10, 30, 60, 120)
"""Before a fresh start, by how many deaths in a row: what killed it may need time to go away."""
TURN_SECONDS = 5.0
"""Longest wait for a start that is under way; after it the reconciler comes back."""
LOG_BYTES = 200_000


def stop(engine_id: uuid.UUID) -> float | None:
    """Ends an engine that is STOPPING: for good, to sleep, or to start afresh. Others are left alone. Returns in how
    many seconds another try pays, where it lets its answers end; None: the reconciler's rhythm will do. Never raises
    LauncherError: the reconciler comes back."""
    with turn(container_turn(engine_id), TURN_SECONDS) as mine:
        engine = Engine.objects.filter(pk=engine_id, state=State.STOPPING).first() if mine else None
        if engine is None:
            return None
        known = KNOWN if engine.cause_code in terms.CODES else HEARD
        again_in_s = draining.again_in_s(engine, timezone.now(), known)
        if again_in_s is None and _end(engine):
            _ended(engine)
        return again_in_s


def _ended(engine: Engine) -> None:
    if engine.desired == Desired.RUN:
        _start_afresh(engine, timezone.now())
    elif engine.desired != Desired.SLEEP or not lifecycle.asleep(engine, timezone.now()):
        lifecycle.stopped(engine, timezone.now())


def start_afresh(engine: Engine, now: datetime, why: str, **columns: int) -> bool:
    """For one that does not wake, or has died: ended, and launched once more in its place. False: it moved on, or
    somebody wants it stopped."""
    with transaction.atomic():
        if not lifecycle.request_afresh(engine, now, why, **columns):
            return False
        transaction.on_commit(partial(hints.stop, engine.pk))
    logger.warning("engine %s is started afresh: %s", engine.name, why)
    return True


def pauses(engine: Engine, now: datetime) -> bool:
    """It is to start afresh, and not yet. Somebody may want it stopped meanwhile: then it pauses no longer."""
    pause = timedelta(seconds=PAUSES_S[min(engine.restarts, len(PAUSES_S) - 1)])
    return engine.state == State.STOPPING and engine.desired == Desired.RUN and now - engine.state_since < pause


def fail(engine: Engine, diagnosis: Diagnosis) -> bool:
    """The three steps. False: the engine moved on meanwhile, or it cannot be ended now; then the reconciler goes on."""
    columns = {
        "cause_code": diagnosis.code[:40],
        "cause": diagnosis.cause,
        "advice": retrying.advice_for(engine, diagnosis),
        "change": retrying.change_for(engine, diagnosis),
    }
    row = Engine.objects.as_seen(engine).filter(state=engine.state, cause_code="")
    if not row.filter(state__in=ACTIVE - {State.STOPPING}).update(**columns):
        return False
    for name, value in columns.items():
        setattr(engine, name, value)
    logger.warning("engine %s has failed (%s): %s", engine.name, diagnosis.code, diagnosis.cause)
    return finish_failing(engine)


def finish_failing(engine: Engine) -> bool:
    """Steps two and three, for an engine whose cause is saved. False: not now."""
    with turn(container_turn(engine.pk), TURN_SECONDS) as mine:
        if not mine or not _end(engine):
            return False
        ended = engine.generation
        engine.refresh_from_db()
        if engine.generation != ended:
            return False
        return lifecycle.failed(engine, timezone.now(), engine.cause_code, engine.cause, engine.advice)


def clear_away_if_ended(engine: Engine) -> None:
    """For whoever has just started a container and finds that its engine, or this generation of it, has ended
    meanwhile. Only to be called with the container's turn."""
    if not Engine.objects.as_seen(engine).filter(state__in=AWAKE).exists():
        _end(engine)


def container_turn(engine_id: uuid.UUID) -> str:
    """Who makes or ends the engine's container or process."""
    return f"container:{engine_id}"


def _start_afresh(engine: Engine, now: datetime) -> None:
    """Where it cannot be now, the reconciler comes back, and sees what is desired by then."""
    if pauses(engine, now):
        return
    with transaction.atomic():
        if lifecycle.start_afresh(engine, now):
            transaction.on_commit(partial(hints.launch, engine.pk))


def _end(engine: Engine) -> bool:
    """False: it may still live."""
    try:
        launcher = choice.launcher(engine.launcher)
        engine_logs.copy(engine, launcher.logs(engine.container_name, LOG_BYTES))
        launcher.stop(engine.container_name, get_config().stop_grace_seconds)
    except OperatorError as error:
        logger.warning("engine %s cannot be ended now: %s", engine.name, error)
        return False
    return True
