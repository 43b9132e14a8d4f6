"""Compares rows with what really runs and finishes what is unfinished. The whole truth is in the rows, so it may run as
often as it likes, twice at once (decision 0032), after a crash, and with every hint lost.

QUEUED … STARTING   launch again, the oldest first; a download is looked at
LOADING … UNHEALTHY look, and judge
SLEEPING, WAKING    the same, and go on with what was begun
STOPPING            end it again
without an owner    ask it to stop
its lease is over   ask it to stop
slept for too long  the same
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from datetime import datetime
from functools import partial
from typing import Any

from django.db import connection
from django.utils import timezone

from engines import checking, ending, fetching, gauges, gpus, launching, lifecycle, placing, sleeping, strays, terms
from engines.models import Engine
from engines.states import COMING_UP, RESTING, Desired, State

logger = logging.getLogger(__name__)

CHECKS_AT_ONCE = 16
CHECK_SECONDS = 60.0
"""Longest wait for all looks; each is bounded by itself, too."""
STEP_SECONDS = 0.2
GPU_SECONDS = 10.0
LOOK_SECONDS = 0.1

_began = float("-inf")
_gpus_lock = threading.Lock()
_gpus_looked_at = float("-inf")


def reconcile(now: datetime) -> float:
    """One round. Returns within about CHECK_SECONDS, and says when it began (`time.monotonic`); pulls, starts and stops
    go on in threads of their own, and the next round leaves alone what is still being done."""
    global _began
    began = _began = time.monotonic()
    refresh_gpus(now)
    rows = list(Engine.objects.active().order_by("created_at"))
    for engine in rows:
        if engine.owner_id is None and not engine.is_ending:
            lifecycle.request_terminate(engine, now, "the portal: its owner is gone")
    terms.end_leases(rows, now)
    terms.end_sleep(rows, now)
    for engine in rows:
        if engine.state == State.STOPPING and not ending.pauses(engine, now):
            _run_apart("stop", ending.stop, engine.pk)
    fetched = [engine for engine in rows if engine.state == State.FETCHING and not engine.cause_code]
    going = fetching.watch(fetched, now)
    _launch([engine for engine in rows if engine.state in COMING_UP - {State.LOADING} and engine.pk not in going])
    for engine in rows:
        if engine.state in RESTING and (engine.slept_at is None or engine.state == State.WAKING):
            see_to_sleep(engine.pk)
    _look_at([engine for engine in rows if engine.state in checking.RUNS and engine.desired == Desired.RUN], now)
    fetching.sweep()
    strays.sweep()
    return began


def last_began() -> float:
    """The last round of this process, by `time.monotonic`; long ago: there was none."""
    return _began


def refresh_gpus(now: datetime) -> None:
    """Looks at the GPUs every GPU_SECONDS, however often it is called."""
    global _gpus_looked_at
    with _gpus_lock:
        if time.monotonic() - _gpus_looked_at < GPU_SECONDS:
            return
        _gpus_looked_at = time.monotonic()
    gpus.refresh(now, gpus.look)


def see_to_sleep(engine_id: uuid.UUID) -> None:
    """Of one engine, now. Returns at once: waking may take minutes."""
    _run_apart("sleep", sleeping.go_on, engine_id)


def stop_all(timeout_s: float) -> bool:
    """Asks all that are awake to stop, ends them at once, and waits. True: none is left. Works without a worker."""
    deadline = time.monotonic() + timeout_s
    for engine in Engine.objects.awake():
        lifecycle.request_terminate(engine, timezone.now(), "the portal: it stops", at_once=True)
    while left := list(Engine.objects.awake().values_list("pk", flat=True)):
        if time.monotonic() > deadline:
            logger.warning("%d engines still run", len(left))
            return False
        for engine_id in left:
            _run_apart("stop", ending.stop, engine_id)
        time.sleep(LOOK_SECONDS)
    fetching.sweep()
    return True


def _launch(engines: list[Engine]) -> None:
    """Each is waited for a moment, so that the oldest gets its GPUs first. Those in line behind others cost nothing:
    one is seen to when those before it have got their place, in the same round."""
    behind = {engine.pk: engine.on_cpu for engine in engines if placing.waits_its_turn(engine)}
    new = launching.needs_but_a_place(engine for engine in engines if engine.pk not in behind)
    behind |= {engine.pk: engine.on_cpu for engine in placing.tell(new)}
    waits = behind.keys() | launching.pulled_by_another(engines)
    for engine in engines:
        if engine.pk not in waits:
            _run_apart("launch", launching.launch, engine.pk).join(STEP_SECONDS)
    for on_cpu in set(behind.values()):
        while turn := [pk for pk in placing.next_in_line(on_cpu) if behind.pop(pk, None) is not None]:
            for engine_id in turn:
                _run_apart("launch", launching.launch, engine_id).join(STEP_SECONDS)


def _look_at(engines: list[Engine], now: datetime) -> None:
    if not engines:
        return

    def look(engine: Engine) -> None:
        checking.look_at(engine, gauged=gauges.due(engine, len(engines), now.timestamp()))

    pool = ThreadPoolExecutor(min(CHECKS_AT_ONCE, len(engines)), "look")
    try:
        looks = [pool.submit(_alone, look, engine) for engine in engines]
        wait_for(looks, timeout=CHECK_SECONDS)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_apart: dict[tuple[str, uuid.UUID], threading.Thread] = {}
_apart_lock = threading.Lock()


def _run_apart(what: str, act: Callable[[uuid.UUID], object], engine_id: uuid.UUID) -> threading.Thread:
    """In a thread of its own, unless one is at it: a pull may take an hour. Daemons, so that they hold up no exit; what
    they leave half done the next worker finishes."""
    key = (what, engine_id)
    with _apart_lock:
        if (running := _apart.get(key)) and running.is_alive():
            return running
        for ended in [other for other, thread in _apart.items() if not thread.is_alive()]:
            del _apart[ended]
        thread = _apart[key] = threading.Thread(target=partial(_alone, act, engine_id), name=what, daemon=True)
        thread.start()
    return thread


def _alone(act: Callable[[Any], object], engine: Engine | uuid.UUID) -> None:
    """One engine's trouble is no other's. The thread's database connection is given back."""
    try:
        act(engine)
    except Exception:
        logger.exception("engine %s could not be reconciled now", engine)
    finally:
        connection.close()
