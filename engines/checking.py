"""A look at an engine that runs, or should: LOADING -> READY <-> UNHEALTHY, or FAILED. What else there is to
one that sleeps, `sleeping` sees to.

What the launcher cannot tell (UNKNOWN) changes nothing. That nothing runs any more (EXITED, GONE) counts at once; that
an engine answers late counts after MISSES looks, because a busy one does.
"""

import logging
import uuid
from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from engines import ending, engine_logs, gauges, health, lifecycle, recipes, restarting, sleeping, starts
from engines.diagnosis import Diagnosis, diagnose, one_line, stalled
from engines.fit import measures
from engines.health import MISSES
from engines.launchers import choice
from engines.launchers.base import Launcher, Observation, Status
from engines.models import Engine
from engines.probing import address_of, cost, count
from engines.startup_phase import startup_phase
from engines.states import RESTING, Desired, State
from engines.turns import turn
from vllm_portal.changes import announce
from vllm_portal.config import get_config
from vllm_portal.errors import OperatorError

logger = logging.getLogger(__name__)

RUNS = frozenset({State.LOADING, State.READY, State.UNHEALTHY}) | RESTING
LOG_BYTES = 200_000
PHASE_BYTES = 32_000
SOONEST_LOOK_S, LATEST_LOOK_S = 0.2, 1.0


@dataclass(frozen=True)
class _Look:
    """What one look is about. `thorough`: also read the log's progress; `gauged`: also how busy it is."""

    engine: Engine
    launcher: Launcher
    seen: Observation
    thorough: bool
    gauged: bool = True


def check(engine_id: uuid.UUID, thorough: bool = True) -> float | None:
    """Looks once and draws the consequences. Returns in how many seconds another look at an engine that loads pays;
    None: the reconciler's rhythm will do. Does nothing where somebody else is looking. Never raises LauncherError."""
    with turn(f"check:{engine_id}") as mine:
        if mine:
            _check(engine_id, thorough)
    loading = Engine.objects.filter(pk=engine_id, state=State.LOADING, desired=Desired.RUN).only("state_since").first()
    if loading is None:
        return None
    age = (timezone.now() - loading.state_since).total_seconds()
    return min(max(age / 200, SOONEST_LOOK_S), LATEST_LOOK_S)


def look_at(engine: Engine, gauged: bool = True) -> None:
    """As a thorough `check` of a row that was read a moment ago. Where all is well it asks the database nothing."""
    with turn(f"check:{engine.pk}") as mine:
        if mine and engine.state == State.LOADING:
            _check(engine.pk, thorough=True)  # somebody may just have proved it READY, which costs tokens
        elif mine:
            _check_row(engine, thorough=True, gauged=gauged)


def _check(engine_id: uuid.UUID, thorough: bool) -> None:
    engine = Engine.objects.filter(pk=engine_id, state__in=RUNS, desired=Desired.RUN).first()
    if engine is not None:
        _check_row(engine, thorough)


def _check_row(engine: Engine, thorough: bool, gauged: bool = True) -> None:
    if engine.cause_code:
        ending.finish_failing(engine)
        return
    try:
        launcher = choice.launcher(engine.launcher)
        _judge(_Look(engine, launcher, launcher.poll(engine.container_name), thorough, thorough and gauged))
    except OperatorError as error:
        logger.warning("engine %s cannot be looked at: %s", engine.name, error)


def _judge(look: _Look) -> None:
    engine, seen = look.engine, look.seen
    if seen.status is Status.UNKNOWN:
        logger.warning("what engine %s does is unknown: %s", engine.name, seen.message)
        return
    if seen.status in (Status.EXITED, Status.GONE):
        log = look.launcher.logs(engine.container_name, LOG_BYTES)
        if engine.state == State.LOADING:
            measures.record(engine, log, timezone.now())
            starts.record(engine, log, engine.state_since)
        _died(engine, diagnose(log, seen, came_up=engine.state != State.LOADING))
        return
    _follow_address(look)
    if look.thorough:
        engine_logs.copy_for_readers(engine)
    if engine.state == State.LOADING:
        _loading(look)
    elif engine.state == State.READY:
        _ready(look)
    elif engine.state in RESTING:
        sleeping.watch(engine, timezone.now())
    else:
        _unhealthy(look)


def _died(engine: Engine, diagnosis: Diagnosis) -> None:
    """Nothing of it runs any more, or it is of no use."""
    if engine.state not in RESTING:
        restarting.fail(engine, timezone.now(), diagnosis)
    elif not sleeping.has_died(engine, timezone.now(), diagnosis):
        ending.fail(engine, restarting.told(engine, diagnosis))


def _follow_address(look: _Look) -> None:
    """A daemon that was restarted may have given the container another port."""
    engine, seen = look.engine, look.seen
    if not seen.port or (engine.host, engine.port) == (seen.host, seen.port):
        return
    Engine.objects.as_seen(engine).filter(state__in=RUNS).update(host=seen.host, port=seen.port)
    engine.host, engine.port = seen.host, seen.port
    announce("engines")


def _loading(look: _Look) -> None:
    engine = look.engine
    began = engine.state_since
    if health.is_healthy(engine.host, engine.port):
        # From here on the log's growth is no sign of progress: these very requests make it grow.
        proof = health.prove(address_of(engine))
        if isinstance(proof, health.Proof):
            _became_ready(engine, proof)
            log = look.launcher.logs(engine.container_name, LOG_BYTES)
            measures.record(engine, log, timezone.now())
            starts.record(engine, log, began)
            return
        lifecycle.progress(engine, timezone.now(), f"it listens, but {one_line(proof)}")
    elif look.thorough:
        _show_progress(look)
    if engine.deadline_at and timezone.now() > engine.deadline_at:
        _died(engine, stalled(get_config().load_stall_seconds, engine.detail))


def _show_progress(look: _Look) -> None:
    engine, name = look.engine, look.engine.container_name
    size = look.launcher.log_size(name)
    if size == engine.log_size:
        return
    log = look.launcher.logs(name, PHASE_BYTES)
    engine_logs.copy(engine, log)
    starts.record(engine, log, engine.state_since)
    lifecycle.progress(engine, timezone.now(), one_line(startup_phase(log)) or engine.detail, size)


def _became_ready(engine: Engine, proof: health.Proof) -> None:
    """What the engine says of itself is asked before it gets requests; what the question cost is counted with it."""
    address = address_of(engine)
    now = timezone.now()
    ready = lifecycle.move(
        engine,
        State.LOADING,
        State.READY,
        now,
        ready_at=now,
        deadline_at=None,
        missed_checks=0,
        task=proof.task,
        served_max_model_len=health.served_max_model_len(address),
        has_chat_template=proof.task == "generate" and health.has_chat_template(address),
        vllm_version=health.vllm_version(address),
        **cost(proof),
    )
    if not ready:
        count(engine, proof)
        return
    recipes.learn(engine)


def _ready(look: _Look) -> None:
    engine = look.engine
    missed = 0 if health.is_healthy(engine.host, engine.port) else engine.missed_checks + 1
    if look.gauged and not missed and (told := health.told(engine.host, engine.port)):
        gauges.note(engine, told, timezone.now().timestamp())
        if told.asleep and engine.sleep_level:
            sleeping.call_back(engine, timezone.now())
    if missed < MISSES:
        if missed != engine.missed_checks:
            Engine.objects.as_seen(engine).filter(state=State.READY).update(missed_checks=missed)
        return
    now = timezone.now()
    deadline = now + timedelta(seconds=get_config().load_stall_seconds)
    message = f"missed {missed} health checks in a row"
    lifecycle.move(
        engine, State.READY, State.UNHEALTHY, now, message, missed_checks=missed, deadline_at=deadline, detail=message
    )


def _unhealthy(look: _Look) -> None:
    engine = look.engine
    proof = health.prove(address_of(engine)) if health.is_healthy(engine.host, engine.port) else "no health"
    now = timezone.now()
    if isinstance(proof, health.Proof):
        count(engine, proof)
        message = "answers again"
        lifecycle.move(engine, State.UNHEALTHY, State.READY, now, message, missed_checks=0, deadline_at=None)
    elif engine.deadline_at and now > engine.deadline_at:
        _died(engine, _unresponsive())


def _unresponsive() -> Diagnosis:
    seconds = get_config().load_stall_seconds
    return Diagnosis(
        "unresponsive",
        f"It runs, but has given no answer for {seconds} s.",
        "Start it again. If that happens more often, look at its log.",
        {},
    )
