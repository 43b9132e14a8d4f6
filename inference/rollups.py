"""Sums of usage records by hour and by day, kept as the records are written."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from inference import batches
from inference.models import UsageRecord, UsageRollup

SUMS = ("requests", "completed", "prompt_tokens", "cached_tokens", "generated_tokens", "duration_ms")
_OF = ("period", "start", "user_id", "api_key_id", "engine_id", "model")
_HOUR, _DAY = UsageRollup.Period.HOUR.value, UsageRollup.Period.DAY.value
_COMPLETED = UsageRecord.Outcome.COMPLETED.value

Key = tuple[Any, ...]
"""The values of `_OF`."""


def add(records: Iterable[Any]) -> None:
    """Adds records that were just written: UsageRecord, or what has its fields. In the transaction that wrote them, or
    they count twice, or never."""
    totals = _totals(records)
    found = _existing(totals)
    known = [(found[key], *sums) for key, sums in totals.items() if key in found]
    batches.increment(UsageRollup, "id", SUMS, sorted(known))
    new = [(key, sums) for key, sums in totals.items() if key not in found]
    engines = {key[4]: batches.prepared(UsageRollup, "engine", key[4]) for key, _ in new}
    starts = {key[1]: batches.prepared(UsageRollup, "start", key[1]) for key, _ in new}
    rows = [(key[0], starts[key[1]], key[2], key[3], engines[key[4]], key[5], *sums) for key, sums in new]
    batches.insert(UsageRollup, [*_OF, *SUMS], rows)


def _totals(records: Iterable[Any]) -> dict[Key, list[int]]:
    hours: dict[Key, list[int]] = defaultdict(lambda: [0] * len(SUMS))
    for one in records:
        engine = None if one.engine_id is None else str(one.engine_id)
        sums = hours[_HOUR, _hour(one.started_at.timestamp() // 3600), one.user_id, one.api_key_id, engine, one.model]
        sums[0] += 1
        sums[1] += one.outcome == _COMPLETED
        sums[2] += one.prompt_tokens
        sums[3] += one.cached_tokens
        sums[4] += one.generated_tokens
        sums[5] += one.duration_ms
    totals = dict(hours)
    for (_, start, *of), sums in hours.items():
        key = (_DAY, start.replace(hour=0), *of)
        totals[key] = [a + b for a, b in zip(totals.get(key, [0] * len(SUMS)), sums, strict=True)]
    return totals


@lru_cache(maxsize=100)
def _hour(number: float) -> datetime:
    return datetime.fromtimestamp(number * 3600, UTC)


def start_of(period: str, moment: datetime) -> datetime:
    hour = moment.replace(minute=0, second=0, microsecond=0)
    return hour if period == UsageRollup.Period.HOUR else hour.replace(hour=0)


def _existing(totals: Iterable[Key]) -> dict[Key, int]:
    """The oldest row of each that there is."""
    users = {key[2] for key in totals}
    rows = UsageRollup.objects.filter(start__in={key[1] for key in totals})
    rows = rows if None in users else rows.filter(user_id__in=users)
    return {
        (period, start, user, key, engine and str(engine), model): pk
        for pk, period, start, user, key, engine, model in rows.order_by("-pk").values_list("pk", *_OF)
    }
