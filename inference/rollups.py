"""Sums of usage records by hour and by day, kept as the records are written."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db.models import F

from inference.models import UsageRecord, UsageRollup

SUMS = ("requests", "completed", "prompt_tokens", "cached_tokens", "generated_tokens", "duration_ms")
_OF = ("period", "start", "user_id", "api_key_id", "engine_id", "model")


def add(records: Iterable[UsageRecord]) -> None:
    """Adds records that were just written. In the transaction that wrote them, or they count twice, or never."""
    totals = _totals(records)
    found = {_key(row): row.pk for row in _existing(totals).order_by("-pk")}
    new = []
    for key, sums in sorted(totals.items(), key=lambda item: repr(item[0])):
        if key in found:
            UsageRollup.objects.filter(pk=found[key]).update(**{name: F(name) + sums[name] for name in SUMS})
        else:
            new.append(UsageRollup(**dict(zip(_OF, key, strict=True)), **sums))
    UsageRollup.objects.bulk_create(new)


Key = tuple[Any, ...]


def _totals(records: Iterable[UsageRecord]) -> dict[Key, dict[str, int]]:
    totals: dict[Key, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SUMS, 0))
    for record in records:
        for period in UsageRollup.Period.values:
            of = (record.user_id, record.api_key_id, record.engine_id and str(record.engine_id), record.model)
            sums = totals[(period, start_of(period, record.started_at), *of)]
            sums["requests"] += 1
            sums["completed"] += record.outcome == UsageRecord.Outcome.COMPLETED
            for name in SUMS[2:]:
                sums[name] += getattr(record, name)
    return totals


def start_of(period: str, moment: datetime) -> datetime:
    hour = moment.replace(minute=0, second=0, microsecond=0)
    return hour if period == UsageRollup.Period.HOUR else hour.replace(hour=0)


def _existing(totals: Iterable[Key]) -> Any:
    users = {key[2] for key in totals}
    rows = UsageRollup.objects.filter(start__in={key[1] for key in totals})
    return rows if None in users else rows.filter(user_id__in=users)


def _key(row: UsageRollup) -> Key:
    return (row.period, row.start, row.user_id, row.api_key_id, row.engine_id and str(row.engine_id), row.model)
