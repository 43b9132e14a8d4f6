"""What the requests of a period cost, in groups. Reads as few rows as it can:

    after ┄ records ┄ hour ── hours ── day ══ days ══ day ── hours ── hour ┄ records ┄ before      (UTC)

One statement reads all parts, so it sees one state of the database: a record that is written meanwhile counts once, or
not at all.
"""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Count, F, Model, Q, QuerySet, Sum
from django.db.models.functions import TruncDay

from accounts.models import ApiKey, User
from engines.models import Engine
from inference.models import UsageRecord, UsageRollup
from inference.rollups import start_of

COUNTS = ("prompt_tokens", "cached_tokens", "generated_tokens")
SUMS = ("requests", *COUNTS)
GROUPS = {"day": "start", "model": "model", "user": "user_id", "key": "api_key_id", "engine": "engine_id"}
_NAMES: dict[str, tuple[type[Model], str, str]] = {
    "user": (User, "username", "(removed)"),
    "key": (ApiKey, "name", "(none)"),
    "engine": (Engine, "name", "(removed)"),
}
_LENGTHS = {UsageRollup.Period.DAY: timedelta(days=1), UsageRollup.Period.HOUR: timedelta(hours=1)}

Span = tuple[datetime, datetime]


def summary(
    records: QuerySet[UsageRecord],
    rollups: QuerySet[UsageRollup],
    group_by: str,
    after: datetime,
    before: datetime,
    outcome: str = "",
) -> list[dict[str, Any]]:
    """`records` and `rollups` are those of the same users, keys, engines and models, in any period; `after` and
    `before` are in UTC. By day the oldest comes first, else what generated most. The roll-ups know no outcome: of one
    that is rare the records are read, and completed is nearly all, so it is all without the others."""
    span = after, before
    if outcome and outcome != UsageRecord.Outcome.COMPLETED:
        parts = [_of_records(records.filter(outcome=outcome), group_by, span)]
    else:
        parts = list(_parts(records, rollups, group_by, span))
        if outcome:
            others = [other for other in UsageRecord.Outcome.values if other != outcome]
            parts.append(_of_records(records.filter(outcome__in=others), group_by, span, sign=-1))
    rows = [{"group": group, **sums} for group, sums in _added_up(parts, group_by).items() if sums["requests"]]
    return sorted(rows, key=lambda row: (0 if group_by == "day" else -row["generated_tokens"], row["group"]))


def _parts(records: QuerySet, rollups: QuerySet, group_by: str, span: Span) -> Iterator[QuerySet]:
    hours = _whole(UsageRollup.Period.HOUR, span)
    days = _whole(UsageRollup.Period.DAY, hours)
    yield _of_rollups(rollups, UsageRollup.Period.DAY, group_by, days)
    for edge in _around(days, hours):
        yield _of_rollups(rollups, UsageRollup.Period.HOUR, group_by, edge)
    for edge in _around(hours, span):
        yield _of_records(records, group_by, edge)


def _whole(period: str, span: Span) -> Span:
    """From the first beginning of an hour or day in the span to its last; nothing at the span's start if there is no
    whole one between."""
    start, end = start_of(period, span[0]), start_of(period, span[1])
    if start < span[0]:
        start += _LENGTHS[period]
    return (start, end) if start < end else (span[0], span[0])


def _around(inner: Span, outer: Span) -> list[Span]:
    return [(start, end) for start, end in ((outer[0], inner[0]), (inner[1], outer[1])) if start < end]


def _of_rollups(rollups: QuerySet, period: str, group_by: str, span: Span) -> QuerySet:
    within = rollups.order_by().filter(period=period, start__gte=span[0], start__lt=span[1])
    return within.values(of=F(GROUPS[group_by])).annotate(**{f"sum_{name}": Sum(name) for name in SUMS})


def _of_records(records: QuerySet, group_by: str, span: Span, sign: int = 1) -> QuerySet:
    group = TruncDay("started_at", tzinfo=UTC) if group_by == "day" else F(GROUPS[group_by])
    counts = {"sum_requests": sign * Count("pk"), **{f"sum_{name}": sign * Sum(name) for name in COUNTS}}
    within = records.order_by().filter(Q(started_at__gte=span[0]), Q(started_at__lt=span[1]))
    return within.values(of=group).annotate(**counts)


def _added_up(parts: list[QuerySet], group_by: str) -> dict[str, dict[str, int]]:
    """By the group's name: two keys of one name are one group."""
    rows = list(parts[0].union(*parts[1:], all=True))
    names = _names(group_by, {row["of"] for row in rows})
    totals: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SUMS, 0))
    for row in rows:
        sums = totals[names[row["of"]]]
        for name in SUMS:
            sums[name] += row[f"sum_{name}"]
    return totals


def _names(group_by: str, found: set[Any]) -> dict[Any, str]:
    if group_by == "day":
        return {day: f"{day:%Y-%m-%d}" for day in found}
    if group_by not in _NAMES:
        return {value: value for value in found}
    table, column, missing = _NAMES[group_by]
    rows = table._default_manager.only(column).in_bulk(found - {None})
    return {pk: getattr(rows[pk], column) if pk in rows else missing for pk in found}
