"""Engines in vLLM's own sleep: READY -> SLEEPING -> WAKING -> READY. Why so: docs/decisions/0025-vllms-own-sleep.md.

    SLEEPING    5 s ── nothing runs on it ── POST /sleep ── /is_sleeping says so: `slept_at`
    WAKING      /is_sleeping? ── /wake_up ── one real token ── READY
                    └ refused three times, dead, too late ── STOPPING ── PLACED: it starts afresh

The row says what is wanted and the engine what is; each step asks the engine first, so whoever finds it half done goes
on.
"""

import logging
import uuid
from datetime import datetime
from functools import partial

from django.db import transaction
from django.utils import timezone

from engines import ending, health, hints, lifecycle, terms, vllm_sleep
from engines.diagnosis import Diagnosis, one_line
from engines.models import Engine
from engines.probing import address_of, cost, count
from engines.states import RESTING, Desired, State
from engines.turns import turn
from vllm_portal.config import get_config

logger = logging.getLogger(__name__)


def level_for(engine: Engine) -> int:
    """vLLM's sleep level that the engine is to be launched for; 0: it cannot sleep, or nobody is to."""
    can = engine.device == "cuda" or engine.launcher == "simulator"
    return get_config().sleep_level if can else 0


def put_to_sleep(engine: Engine, now: datetime, by: str) -> bool:
    """Out of routing now, asleep a few seconds later. False: it is not ready any more."""
    with transaction.atomic():
        if not lifecycle.doze(engine, now, by):
            return False
        transaction.on_commit(partial(hints.sleep, engine.pk, ending.KNOWN.total_seconds()))
    return True


def rouse(engine: Engine, now: datetime, by: str, **columns: int) -> bool:
    """False: it does not sleep, somebody was faster, or it has to wait for one of `lifecycle.waits_for`."""
    with transaction.atomic():
        if not lifecycle.rouse(engine, now, by, **columns):
            return False
        transaction.on_commit(partial(hints.sleep, engine.pk))
    return True


def go_on(engine_id: uuid.UUID) -> None:
    """Does what is next for one that is to sleep or to wake, which may take minutes. Does nothing where somebody else
    is at it, or nothing is to be done. Raises OperatorError."""
    with turn(f"sleep:{engine_id}") as mine:
        while mine and _step(engine_id):
            pass


def watch(engine: Engine, now: datetime) -> None:
    """A look at one whose process runs."""
    late = engine.deadline_at is not None and now > engine.deadline_at
    if engine.state == State.WAKING:
        if late:
            seconds = get_config().load_stall_seconds
            last = f" Last: {engine.detail}." if engine.detail else ""
            ending.start_afresh(engine, now, f"it did not wake from vLLM's sleep within {seconds} s.{last}")
    elif engine.slept_at is None:
        if late:
            rouse(engine, now, "the portal: it does not fall asleep")
    else:
        _look_after(engine, now)


def has_died(engine: Engine, now: datetime, diagnosis: Diagnosis) -> bool:
    """Nothing of it runs any more. Who wakes it gets it afresh. False: it may not be woken, and has failed."""
    if engine.state == State.WAKING:
        return ending.start_afresh(engine, now, diagnosis.cause)
    if not terms.sleeps(engine):
        return False
    told = {"cause_code": diagnosis.code[:40], "cause": diagnosis.cause, "advice": "The next request starts it afresh."}
    with transaction.atomic():
        died = f"died while it slept: {diagnosis.cause}"
        if not lifecycle.request_sleep(engine, now, "the portal", died, **told):
            return False
        transaction.on_commit(partial(hints.stop, engine.pk))
    return True


def call_back(engine: Engine, now: datetime) -> None:
    """One that is READY, and whose metrics say that it sleeps. If it does, whoever put it to sleep was late."""
    if not vllm_sleep.is_asleep(address_of(engine)):
        return
    logger.error("engine %s sleeps although it is ready; it is woken", engine.name)
    if lifecycle.doze(engine, now, "nobody, and it sleeps"):
        rouse(engine, now, "the portal")


def _look_after(engine: Engine, now: datetime) -> None:
    missed = 0 if health.is_healthy(engine.host, engine.port or 0) else engine.missed_checks + 1
    if missed >= health.MISSES:
        # Whether it is still good for anything shows when it is woken.
        rouse(engine, now, f"the portal: it missed {missed} health checks in a row")
    elif missed != engine.missed_checks:
        Engine.objects.as_seen(engine).filter(state=State.SLEEPING).update(missed_checks=missed)


def _step(engine_id: uuid.UUID) -> bool:
    """True: there may be more to do."""
    rows = Engine.objects.filter(pk=engine_id, state__in=RESTING, desired=Desired.RUN, cause_code="")
    engine = rows.exclude(port=None).first()
    if engine is None:
        return False
    return _fall_asleep(engine) if engine.state == State.SLEEPING else _wake_up(engine)


def _fall_asleep(engine: Engine) -> bool:
    if engine.slept_at is not None or timezone.now() - engine.state_since < ending.KNOWN:
        return False
    told = health.told(engine.host, engine.port or 0)
    if told is None or told.running + told.waiting > 0:
        return False
    address = address_of(engine)
    status, asleep = None, vllm_sleep.is_asleep(address)
    if asleep is False:
        status = vllm_sleep.fall_asleep(address, engine.sleep_level)
        asleep = vllm_sleep.is_asleep(address)
    now = timezone.now()
    if asleep:
        row = Engine.objects.as_seen(engine).filter(state=State.SLEEPING)
        row.update(slept_at=now, deadline_at=None, missed_checks=0)
        logger.info("engine %s sleeps, level %d", engine.name, engine.sleep_level)
        return True
    if asleep is None or status is None:
        return False
    logger.warning("engine %s does not fall asleep: it answered with %d", engine.name, status)
    return rouse(engine, now, f"the portal: it does not fall asleep (it answered with {status})", sleep_level=0)


def _wake_up(engine: Engine) -> bool:
    address = address_of(engine)
    asleep = vllm_sleep.is_asleep(address)
    if asleep:
        lifecycle.progress(engine, timezone.now(), "its weights come back")
        undone = vllm_sleep.wake_up(address, engine.sleep_level or min(vllm_sleep.OF_LEVELS))
        asleep = None if undone else vllm_sleep.is_asleep(address)
        if undone:
            _missed(engine, undone)
    if asleep is not False:
        return False
    proof = health.prove(address)
    now = timezone.now()
    if isinstance(proof, str):
        lifecycle.progress(engine, now, f"it is awake, but {one_line(proof)}")
        return False
    awake = {"deadline_at": None, "slept_at": None, "missed_checks": 0}
    if not lifecycle.move(engine, State.WAKING, State.READY, now, **awake, **cost(proof)):
        count(engine, proof)
    return False


def _missed(engine: Engine, undone: str) -> None:
    """Tried once more, and after so many times no more: who waits for it is served sooner by a fresh start."""
    missed, now = engine.missed_checks + 1, timezone.now()
    if missed >= health.MISSES:
        ending.start_afresh(engine, now, f"it did not wake from vLLM's sleep {missed} times: {undone}")
        return
    logger.warning("engine %s does not wake yet: %s", engine.name, undone)
    Engine.objects.as_seen(engine).filter(state=State.WAKING).update(missed_checks=missed)
    lifecycle.progress(engine, now, f"tries again: {undone}")
