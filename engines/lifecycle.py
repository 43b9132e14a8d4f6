"""The only writer of `Engine.state`.

Each change is a compare-and-swap on the row together with its EngineEvent, in one transaction: of two processes that
want the same change one gets True and acts on it, the other gets False and leaves it. Whoever changes a state that
matters to routing tells the data plane after the commit. Time is passed in.
"""

import logging
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from accounts.models import User
from engines import draining
from engines.models import CpuLease, Engine, EngineEvent, Gpu, GpuLease, GpuSlice
from engines.placement import SLICES
from engines.states import ACTIVE, FINAL, GROWING, Desired, State, allowed
from vllm_portal.changes import announce
from vllm_portal.config import get_config
from vllm_portal.encryption import encrypt

logger = logging.getLogger(__name__)

FALLS_ASLEEP = timedelta(minutes=5)
"""One that does not sleep by then is woken."""
_UNTOLD: dict[str, Any] = {"cause_code": "", "cause": "", "advice": "", "change": None}


def request_start(owner: User, now: datetime, *, hf_token: str = "", **columns: Any) -> Engine:
    """Accepts an engine: a QUEUED row with its first event. `columns` are fields of Engine, already checked.

    Nothing has started when this returns; the caller sends the launch hint after the commit, and if that gets lost
    the reconciler launches the engine.
    """
    with transaction.atomic():
        engine = Engine.objects.create(
            owner=owner,
            state_since=now,
            hf_token_encrypted=encrypt(hf_token),
            engine_key_encrypted=encrypt(secrets.token_urlsafe(32)),
            **columns,
        )
        EngineEvent.objects.create(engine=engine, at=now, new_state=State.QUEUED, message=f"asked for by {owner}")
    return engine


def move(
    engine: Engine, old: State | Iterable[State], new: State, now: datetime, message: str = "", **columns: Any
) -> bool:
    """Takes the engine from (one of) `old` to `new` and sets `columns` with it. False: it was in another state or
    generation, or somebody was faster; then nothing changed. On True the object given has the new values.

    An engine that somebody wants stopped only ever moves towards its end; one that is to sleep, to its sleep.
    """
    olds = {old} if isinstance(old, State) else set(old)
    refused = [state for state in olds if not allowed(state, new)]
    if refused:
        raise ValueError(f"no way from {', '.join(refused)} to {new}")
    if new in FINAL:
        columns |= {"ended_at": now, "deadline_at": None, "hf_token_encrypted": ""}
    values = {"state": new, "state_since": now, "detail": "", **columns}
    with transaction.atomic():
        row = Engine.objects.select_for_update().as_seen(engine).filter(state__in=olds)
        row = row.filter(desired__in=_wanted(new, columns))
        before = row.values_list("state", flat=True).first()
        if before is None:
            return False
        if not Engine.objects.filter(pk=engine.pk, state=before).update(**values):
            return False
        EngineEvent.objects.create(engine_id=engine.pk, at=now, old_state=before, new_state=new, message=message[:500])
        if new in FINAL or new is State.ASLEEP:
            GpuLease.objects.filter(engine_id=engine.pk).delete()
            CpuLease.objects.filter(engine_id=engine.pk).delete()
        transaction.on_commit(lambda: announce("engines"))
    for name, value in values.items():
        setattr(engine, name, value)
    logger.info("engine %s: %s -> %s %s", engine.name, before, new, message)
    return True


def place(engine: Engine, gpus: list[Gpu], now: datetime, slots: Collection[int] = ()) -> bool:
    """QUEUED -> PLACED with these GPUs or slots of the CPU leased; its own lease begins, unless it has one that runs.
    False when the engine moved on or one of them was just taken."""
    try:
        with transaction.atomic():
            for gpu in sorted(gpus, key=lambda one: one.pk):
                _lease(gpu, engine, now)
            CpuLease.objects.bulk_create(CpuLease(slot=slot, engine=engine, since=now) for slot in slots)
            ends_at = engine.lease_ends_at
            if ends_at is None and engine.lease_hours is not None:
                ends_at = now + timedelta(hours=engine.lease_hours)
            message = ", ".join([*(str(gpu) for gpu in gpus), *(f"slot {slot}" for slot in slots)])
            if not move(engine, State.QUEUED, State.PLACED, now, message, lease_ends_at=ends_at):
                raise _Overtaken
    except (IntegrityError, _Overtaken):
        return False
    return True


def holds_a_place(engine: Engine) -> bool:
    return (
        GpuLease.objects.filter(engine_id=engine.pk).exists() or CpuLease.objects.filter(engine_id=engine.pk).exists()
    )


def get_in_line(engine: Engine, now: datetime, **columns: Any) -> bool:
    """FETCHING or PULLING -> QUEUED, of one that holds no place: what it needs is there, and it takes its turn by when
    it was asked for. False: it moved on, or somebody wants it stopped."""
    if holds_a_place(engine):
        raise ValueError("what it holds would stay leased while it waits")
    fetched = (State.FETCHING, State.PULLING)
    return move(engine, fetched, State.QUEUED, now, "what it needs is there", deadline_at=None, **columns)


def _lease(gpu: Gpu, engine: Engine, now: datetime) -> None:
    """The lowest of its slices. Raises _Overtaken, or IntegrityError, where it has too few left or another comes up."""
    Gpu.objects.select_for_update().get(pk=gpu.pk)  # against an engine that wakes on it meanwhile
    wanted = engine.gpu_slices
    taken = set(GpuSlice.objects.filter(gpu=gpu).values_list("number", flat=True))
    numbers = [n for n in range(SLICES if wanted == SLICES else SLICES - 1) if n not in taken][:wanted]
    if len(numbers) < wanted or GpuLease.objects.filter(gpu=gpu, engine__state__in=GROWING).exists():
        raise _Overtaken
    lease = GpuLease.objects.create(gpu=gpu, engine=engine, slices=wanted, since=now)
    GpuSlice.objects.bulk_create(GpuSlice(gpu=gpu, number=number, lease=lease) for number in numbers)


class _Overtaken(Exception):
    """Rolls the leases back."""


def _wanted(new: State, columns: dict[str, Any]) -> Collection[str]:
    """What must be desired of an engine that goes to this state."""
    if new is State.ASLEEP or (new is State.QUEUED and "desired" in columns):
        return [Desired.SLEEP]
    if new in FINAL or (new is State.STOPPING and columns.get("desired", Desired.STOP) == Desired.STOP):
        return list(Desired)
    return [Desired.RUN]


def doze(engine: Engine, now: datetime, by: str) -> bool:
    """READY -> SLEEPING: out of routing, to be put to sleep by vLLM. False: it is not ready any more, or somebody
    wants it stopped."""
    columns = {"deadline_at": now + FALLS_ASLEEP, "slept_at": None, "missed_checks": 0}
    return move(engine, State.READY, State.SLEEPING, now, f"put to sleep by {by}", **columns)


def rouse(engine: Engine, now: datetime, by: str, **columns: Any) -> bool:
    """SLEEPING -> WAKING. False: somebody was faster, it has ended, or one of `waits_for` comes up.

    The caller sends the hint after the commit; if that gets lost the reconciler wakes it.
    """
    deadline = now + timedelta(seconds=get_config().load_stall_seconds)
    columns |= {"deadline_at": deadline, "missed_checks": 0}
    with transaction.atomic():
        _lock_gpus(engine)
        if waits_for(engine):
            return False
        return move(engine, State.SLEEPING, State.WAKING, now, f"woken by {by}", **columns)


def request_afresh(engine: Engine, now: datetime, why: str, **columns: Any) -> bool:
    """WAKING, or where it died -> STOPPING, on its way to PLACED: it keeps its GPUs and does not wait in line again.
    False: it moved on, or somebody wants it stopped.

    The caller sends the stop hint after the commit; if that gets lost the reconciler goes on.
    """
    columns |= {"desired": Desired.RUN, "deadline_at": None, "slept_at": None}
    columns["detail"] = f"to start afresh: {why}"[:300]
    return move(engine, State(engine.state), State.STOPPING, now, f"is started afresh: {why}", **columns)


def start_afresh(engine: Engine, now: datetime) -> bool:
    """STOPPING -> PLACED: the next generation in the place of the one before, of which the launcher says that nothing
    runs any more. False: it is to end by now, or one of `waits_for` comes up.

    The caller sends the launch hint after the commit, as at a start.
    """
    with transaction.atomic():
        _lock_gpus(engine)
        if waits_for(engine):
            return False
        return move(engine, State.STOPPING, State.PLACED, now, "in the same place", **_next_generation(engine, now))


def _lock_gpus(engine: Engine) -> None:
    """Its own, against whoever is placed on them meanwhile. Only within a transaction."""
    list(Gpu.objects.select_for_update(of=("self",)).filter(leases__engine=engine).order_by("pk"))


def waits_for(engine: Engine) -> list[str]:
    """Names of engines that come up on one of its GPUs, and measure its memory: it must not take its own back now."""
    beside = Engine.objects.filter(gpu_leases__gpu__leases__engine=engine, state__in=GROWING).exclude(pk=engine.pk)
    return list(beside.order_by("name").values_list("name", flat=True).distinct())


def request_sleep(engine: Engine, now: datetime, by: str, message: str = "", **columns: Any) -> bool:
    """READY or SLEEPING -> STOPPING, on its way to ASLEEP, once what it answers has ended. False: it is neither any
    more, or somebody wants it stopped."""
    idle = (State.READY, State.SLEEPING)
    columns |= {"desired": Desired.SLEEP, **draining.begin(engine, now)}
    return move(engine, idle, State.STOPPING, now, message or f"put to sleep by {by}", **columns)


def asleep(engine: Engine, now: datetime) -> bool:
    """The launcher says that nothing of the engine runs any more, and it is to sleep; its GPUs are free. False: it was
    to end, or somebody wants that by now."""
    columns = {"host": "", "port": None, "deadline_at": None, "lease_ends_at": None, "slept_at": None}
    return move(engine, State.STOPPING, State.ASLEEP, now, **columns)


def wake(engine: Engine, now: datetime, by: str) -> bool:
    """ASLEEP -> QUEUED: the next generation of the same engine. False: somebody was faster, or it has ended.

    The caller sends the launch hint after the commit, as at a start.
    """
    return move(
        engine,
        State.ASLEEP,
        State.QUEUED,
        now,
        f"woken by {by}",
        desired=Desired.RUN,
        restarts=0,
        **_next_generation(engine, now),
    )


def _next_generation(engine: Engine, now: datetime) -> dict[str, Any]:
    """What is told of the last one is forgotten."""
    return {
        "generation": engine.generation + 1,
        "asked_at": now,
        "host": "",
        "port": None,
        "deadline_at": None,
        "ready_at": None,
        "slept_at": None,
        "log_size": 0,
        "missed_checks": 0,
        "sleep_level": 0,
        "phases": [],
        "download": None,
        "probe_prompt_tokens": 0,
        "probe_generated_tokens": 0,
        **_UNTOLD,
    }


def request_terminate(engine: Engine, now: datetime, by: str, at_once: bool = False, **columns: Any) -> bool:
    """Out of routing at once, and to be ended, whatever becomes of it now. What it answers may end first, until
    `deadline_at`; `at_once`: it may not, or no longer. Legal in every state; False when it has ended or is ending
    already.
    `columns`: what else its owner is to know of it; why it slept counts no longer.

    The caller sends the stop hint after the commit; if that gets lost the reconciler stops the engine.
    """
    message = f"stop asked for by {by}"
    with transaction.atomic():
        ending = {"state": State.STOPPING, "desired": Desired.STOP}
        if not Engine.objects.filter(pk=engine.pk, state__in=ACTIVE).exclude(**ending).update(desired=Desired.STOP):
            return at_once and _end_at_once(engine, now, f"to end at once: asked for by {by}")
        # Whichever it is by now.
        engine.refresh_from_db(fields=["generation", "state", "desired", "slept_at", "deadline_at"])
        if engine.state in (State.ASLEEP, State.STOPPING):
            columns = {**_UNTOLD, **columns}
        drains = draining.begin(engine, now, at_once)
        if engine.state == State.STOPPING:  # to sleep, or to start afresh
            Engine.objects.filter(pk=engine.pk).update(**{**drains, **columns})
            _note_ending(engine, now, message)
            return True
        columns |= {"desired": Desired.STOP, **drains}
        return move(engine, State(engine.state), State.STOPPING, now, message, **columns)


def _end_at_once(engine: Engine, now: datetime, message: str) -> bool:
    """False: it does not let anything end any more."""
    row = Engine.objects.filter(pk=engine.pk, state=State.STOPPING, desired=Desired.STOP, deadline_at__gt=now)
    if not row.update(**draining.begin(engine, now, at_once=True)):
        return False
    _note_ending(engine, now, message)
    return True


def _note_ending(engine: Engine, now: datetime, message: str) -> None:
    """Of one that is STOPPING already."""
    EngineEvent.objects.create(
        engine_id=engine.pk, at=now, old_state=State.STOPPING, new_state=State.STOPPING, message=message[:500]
    )
    transaction.on_commit(lambda: announce("engines"))


def stopped(engine: Engine, now: datetime, message: str = "") -> bool:
    """The launcher says that nothing of the engine runs any more; its GPUs are free."""
    return move(engine, State.STOPPING, State.STOPPED, now, message)


def failed(engine: Engine, now: datetime, code: str, cause: str, advice: str = "") -> bool:
    """The engine ended or will never come up, and the launcher says that nothing of it runs; its GPUs are free.

    Must not be called while the container or process may live: end it first. An engine that was asked to stop
    becomes STOPPED instead, whatever it died of.
    """
    if engine.desired == Desired.STOP and stopped(engine, now, cause):
        return True
    return move(
        engine,
        ACTIVE - {State.STOPPING},
        State.FAILED,
        now,
        cause,
        cause_code=code,
        cause=cause,
        advice=advice,
    )


def progress(engine: Engine, now: datetime, detail: str, log_size: int | None = None) -> None:
    """An engine that comes up, or wakes, shows a sign of life: its detail is shown, its deadline moves.

    `log_size` None: no log yet; the deadline stays.
    """
    values: dict[str, Any] = {"detail": detail[:300]}
    if log_size is not None and log_size != engine.log_size:
        values |= {
            "log_size": log_size,
            "deadline_at": now + timedelta(seconds=get_config().load_stall_seconds),
        }
    if all(getattr(engine, name) == value for name, value in values.items()):
        return
    Engine.objects.as_seen(engine).filter(state=engine.state, state__in=GROWING).update(**values)
    for name, value in values.items():
        setattr(engine, name, value)


def downloading(engines: Iterable[Engine]) -> None:
    """Those that are FETCHING show how far their download is: `download`, `detail` and `deadline_at` of these objects.
    One query for all of a generation, which most are in."""
    seen: defaultdict[int, list[Engine]] = defaultdict(list)
    for engine in engines:
        seen[engine.generation].append(engine)
    for generation, alike in seen.items():
        rows = Engine.objects.filter(state=State.FETCHING, generation=generation)
        rows.bulk_update(alike, ["download", "detail", "deadline_at"])
