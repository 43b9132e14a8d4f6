"""How long an engine may stay: its lease, and how long it may be idle. Within what the settings allow.

A lease begins with the engine's place and ends at `lease_ends_at`; its owner may extend it. Idle is an engine that is
READY, or sleeps, and has no request; how long, `used_at` says, which `inference.idle` keeps.

    idle ── sleep_at: vLLM's own sleep, where the engine can ── idle_stop_at: stopped, and ASLEEP where it may be woken
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Q

from accounts.models import User
from engines import hints, lifecycle
from engines.models import Engine
from engines.states import FINAL, Desired, State
from vllm_portal.config import get_config
from vllm_portal.errors import CallerError, FieldError

LEASE_ENDED, IDLE, RECLAIMED = "lease_ended", "idle", "reclaimed"
CODES = frozenset({LEASE_ENDED, IDLE, RECLAIMED})
"""`cause_code` of engines that the portal stopped, though nobody asked and nothing failed."""


def lease_hours(asked: float | None, user: User) -> float | None:
    """For a start; None: no end. Raises FieldError."""
    config = get_config()
    if asked is None:
        return config.lease_hours or config.lease_hours_most
    _within(asked, config.lease_hours_most, "lease_hours", "hours", user)
    return asked


def idle_minutes(asked: int | None, user: User) -> int | None:
    """What is kept of it; None: as the settings say. Raises FieldError."""
    if asked is not None:
        _within(asked, get_config().idle_stop_minutes_most, "idle_minutes", "minutes", user)
    return asked


def sleep_minutes(asked: int | None, user: User) -> int | None:
    """The same of vLLM's own sleep."""
    if asked is not None:
        _within(asked, get_config().sleep_minutes_most, "sleep_minutes", "minutes", user)
    return asked


def keep_until(asked: datetime | None, now: datetime, user: User) -> datetime | None:
    """Raises FieldError."""
    most = get_config().keep_days_most
    if asked is not None and asked > now + timedelta(days=most) and not user.is_admin:
        raise FieldError("keep_until", f"At most {most} days ahead.")
    return asked


def extend(engine: Engine, asked: float | None, now: datetime, user: User) -> None:
    """The lease ends so many hours from now; None: as many as a new engine would get. It may get shorter, too. Raises
    FieldError, and CallerError where there is no lease that runs."""
    hours = lease_hours(asked, user)
    if hours is None:
        raise FieldError("hours", "Say for how many hours.")
    ends_at = now + timedelta(hours=hours)
    row = Engine.objects.active().filter(pk=engine.pk, lease_ends_at__isnull=False)
    if not row.filter(~Q(state=State.STOPPING) | Q(desired=Desired.RUN)).update(lease_ends_at=ends_at):
        raise CallerError("It has no lease that could be extended: it waits, has no end, or has ended.")
    engine.lease_ends_at = ends_at


def change(engine: Engine, now: datetime, user: User, given: dict[str, Any]) -> None:
    """`given`: idle_minutes, sleep_minutes, keep_until and wakes, as far as they change. Raises FieldError, and then
    changes nothing."""
    checks: dict[str, Callable[[Any], Any]] = {
        "idle_minutes": lambda value: idle_minutes(value, user),
        "sleep_minutes": lambda value: sleep_minutes(value, user),
        "keep_until": lambda value: keep_until(value, now, user),
        "wakes": lambda value: value,
    }
    columns = {name: checks[name](given[name]) for name in checks if name in given}
    if columns:
        Engine.objects.filter(pk=engine.pk).update(**columns)


def idle_since(engine: Engine) -> datetime | None:
    """None: it neither is ready nor sleeps, or nobody has looked yet."""
    return engine.used_at if engine.state in (State.READY, State.SLEEPING) else None


def idle_stop_at(engine: Engine) -> datetime | None:
    """When it will be stopped if nobody asks it anything; None: never, or it is not ready."""
    config = get_config()
    return _idle_for(engine, engine.idle_minutes or config.idle_stop_minutes or config.idle_stop_minutes_most)


def sleep_at(engine: Engine) -> datetime | None:
    """When vLLM will be put to sleep if nobody asks it anything; None: never, it sleeps, or it is stopped first."""
    config = get_config()
    if engine.state != State.READY or not engine.sleep_level or not engine.wakes or not config.sleep_level:
        return None
    at = _idle_for(engine, engine.sleep_minutes or config.sleep_minutes or config.sleep_minutes_most)
    stop_at = idle_stop_at(engine)
    return None if at is None or (stop_at is not None and stop_at <= at) else at


def _idle_for(engine: Engine, minutes: int | None) -> datetime | None:
    since = idle_since(engine)
    if since is None or minutes is None:
        return None
    at = since + timedelta(minutes=minutes)
    return max(at, engine.keep_until) if engine.keep_until else at


def sleeps(engine: Engine) -> bool:
    """When it is stopped for being idle; else it ends then."""
    return engine.wakes and get_config().asleep_days > 0


def end_leases(engines: list[Engine], now: datetime) -> None:
    for engine in engines:
        if engine.lease_ends_at is not None and engine.lease_ends_at <= now and not engine.is_ending:
            cause = f"Its lease ended at {engine.lease_ends_at:%Y-%m-%d %H:%M} UTC."
            stop(engine, now, LEASE_ENDED, cause, "Start it again, for longer if the settings allow it.")


def end_sleep(engines: list[Engine], now: datetime) -> None:
    """Nobody has woken them for so long that they end for good, and what they kept for it is forgotten."""
    days = get_config().asleep_days
    for engine in engines:
        if engine.state == State.ASLEEP and engine.state_since + timedelta(days=days) <= now:
            stop(
                engine, now, IDLE, f"It slept for {days} days, and nobody woke it.", "Start it again when you need it."
            )


def rest(engine: Engine, now: datetime, code: str, cause: str, advice: str) -> bool:
    """For one that is idle: stopped, and ASLEEP where it may be woken. `advice`: for where it may not. False: it is
    neither ready nor sleeping any more."""
    if not sleeps(engine):
        return stop(engine, now, code, cause, advice)
    told = {"cause_code": code, "cause": cause, "advice": "The next request wakes it.", "change": None}
    return _tell(engine, lifecycle.request_sleep, now, code, told)


def stop(engine: Engine, now: datetime, code: str, cause: str, advice: str) -> bool:
    """By the portal itself; what it works on may end first. False: it has ended, or somebody stops it already."""
    if engine.state in FINAL:
        return False
    told = {"cause_code": code, "cause": cause, "advice": advice, "change": {}}
    return _tell(engine, lifecycle.request_terminate, now, code, told)


def _tell(engine: Engine, ask: Callable[..., bool], now: datetime, code: str, told: dict[str, Any]) -> bool:
    with transaction.atomic():
        if not ask(engine, now, f"the portal ({code})", **told):
            return False
        transaction.on_commit(partial(hints.stop, engine.pk))
    return True


def _within(asked: float, most: float | None, field: str, unit: str, user: User) -> None:
    if most is not None and asked > most and not user.is_admin:
        raise FieldError(field, f"At most {most:g} {unit} here; an admin may give more.")
