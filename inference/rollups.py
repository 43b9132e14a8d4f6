"""Sums of usage records by hour and by day, kept as the records are written."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from inference import batches
from inference.models import UsageRecord, UsageRollup

SUMS = ("requests", "completed", "prompt_tokens", "cached_tokens", "generated_tokens", "duration_ms")
_OF = ("user", "api_key", "engine", "model")
_HOUR, _DAY = UsageRollup.Period.HOUR.value, UsageRollup.Period.DAY.value
_COMPLETED = UsageRecord.Outcome.COMPLETED.value

Of = tuple[Any, ...]
"""The values of `_OF`."""
Totals = dict[Of, list[int]]


def add(records: Iterable[Any]) -> None:
    """Adds records that were just written: UsageRecord, or what has its fields. In the transaction that wrote them, or
    they count twice, or never."""
    days: dict[int, Totals] = {}
    for hour, totals in _by_hour(records).items():
        _add(_HOUR, datetime.fromtimestamp(hour * 3600, UTC), totals)
        day = days.setdefault(hour // 24, {})
        for of, sums in totals.items():
            day[of] = [a + b for a, b in zip(day[of], sums, strict=True)] if of in day else sums
    for number, totals in days.items():
        _add(_DAY, datetime.fromtimestamp(number * 86400, UTC), totals)


def _by_hour(records: Iterable[Any]) -> dict[int, Totals]:
    hours: dict[int, Totals] = {}
    for one in records:
        totals = hours.get(one.hour)
        if totals is None:
            totals = hours[one.hour] = {}
        of = one.user_id, one.api_key_id, one.engine_id, one.model
        sums = totals.get(of)
        if sums is None:
            sums = totals[of] = [0] * len(SUMS)
        sums[0] += 1
        sums[1] += one.outcome == _COMPLETED
        sums[2] += one.prompt_tokens
        sums[3] += one.cached_tokens
        sums[4] += one.generated_tokens
        sums[5] += one.duration_ms
    return hours


def _add(period: str, start: datetime, totals: Totals) -> None:
    engines = batches.prepared_all(UsageRollup, "engine", {engine for _, _, engine, _ in totals})
    stored = {(user, key, engines[engine], model): sums for (user, key, engine, model), sums in totals.items()}
    when = batches.prepared(UsageRollup, "start", start)
    found = _existing(period, when, {of[0] for of in stored})
    batches.increment(UsageRollup, "id", SUMS, sorted((found[of], *sums) for of, sums in stored.items() if of in found))
    new = [(period, when, *of, *sums) for of, sums in stored.items() if of not in found]
    batches.insert(UsageRollup, ("period", "start", *_OF, *SUMS), new)


def _existing(period: str, start: object, users: set[int | None]) -> dict[Of, int]:
    """The oldest row of each that there is."""
    whose = {} if None in users else {"user": users}
    rows = batches.select(UsageRollup, ("id", *_OF), period=period, start=start, **whose)
    return {tuple(of): pk for pk, *of in reversed(rows)}


def start_of(period: str, moment: datetime) -> datetime:
    hour = moment.replace(minute=0, second=0, microsecond=0)
    return hour if period == UsageRollup.Period.HOUR else hour.replace(hour=0)
