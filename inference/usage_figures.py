"""The numbers of the page /usage, as plain values: what requests of a period cost, by day, model, key and user, and how
long engines held GPUs."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict
from uuid import UUID

from django.db.models import Q, QuerySet, Sum

from accounts.models import User
from engines import gpu_hours
from engines.gpu_hours import GpuTime
from engines.models import Engine
from inference.models import UsageRecord, UsageRollup
from inference.rollups import start_of
from inference.summary import summary

DAYS = (7, 30, 90, 365)
LONGEST = 15  # rows of a table; the CSV has all

Span = tuple[datetime, datetime]
_COLUMNS = {"model": ("model", ""), "key": ("api_key__name", "(none)"), "user": ("user__username", "(removed)")}
"""Of each group: the column with its names, and what `summary` calls those without one."""


class Group(TypedDict):
    """One table. Rows: of those that cost most. Their `by_day`: the tokens of each of the days."""

    name: str
    rows: list[dict[str, Any]]
    left_out: int


class GpuRow(TypedDict):
    """Hours times GPUs. `gpus` are parts where others share them."""

    name: str
    model: str
    gpus: float
    held: float
    idle: float
    idle_percent: int


class Figures(TypedDict):
    """`as_of`: ISO 8601, in UTC; the last of the days. `daily`: the oldest first, without days that have no request."""

    as_of: str
    daily: list[dict[str, Any]]
    groups: list[Group]
    gpus: list[GpuRow]


def first_day(as_of: datetime, days: int) -> datetime:
    """Midnight of the first of so many days, of which today is the last."""
    return start_of(UsageRollup.Period.DAY, as_of.astimezone(UTC)) - timedelta(days=days - 1)


def figures(days: int, user: User | None, now: datetime) -> Figures:
    """Of one user, or of all (None), which reads hundreds of thousands of rows where there are many: see
    `inference.everybodys_usage`."""
    now = now.astimezone(UTC)
    first = first_day(now, days)
    of: dict[str, Any] = {} if user is None else {"user": user}
    records, rollups = UsageRecord.objects.filter(**of), UsageRollup.objects.filter(**of)
    engines = Engine.objects.all() if user is None else Engine.objects.filter(owner=user)
    names = ("model", "key") if user is not None else ("model", "key", "user")
    return Figures(
        as_of=now.isoformat(),
        daily=summary(records, rollups, "day", first, now),
        groups=[_group(name, summary(records, rollups, name, first, now), rollups, first, days) for name in names],
        gpus=list(_gpu_rows(gpu_hours.of(engines, (first, now)), (first, now))),
    )


def _group(name: str, rows: list[dict[str, Any]], rollups: QuerySet[UsageRollup], first: datetime, days: int) -> Group:
    for row in rows:
        row["tokens"] = row["prompt_tokens"] + row["generated_tokens"]
    rows.sort(key=lambda row: (-row["tokens"], row["group"]))
    shown = rows[:LONGEST]
    by_day = _by_day(name, [row["group"] for row in shown], rollups, first, days)
    return Group(
        name=name,
        rows=[{**row, "by_day": by_day.get(row["group"], [])} for row in shown],
        left_out=max(0, len(rows) - LONGEST),
    )


def _by_day(
    name: str, groups: list[str], rollups: QuerySet[UsageRollup], first: datetime, days: int
) -> dict[str, list[int]]:
    """Tokens of each day, in order. Today's sums are there as far as its records are written."""
    column, nameless = _COLUMNS[name]
    wanted = Q(**{f"{column}__in": groups}) | (Q(**{column: None}) if nameless in groups else Q())
    of_days = rollups.order_by().filter(wanted, period=UsageRollup.Period.DAY, start__gte=first)
    found: dict[str, list[int]] = defaultdict(lambda: [0] * days)
    tokens = Sum("prompt_tokens") + Sum("generated_tokens")
    for group, start, count in of_days.values_list(column, "start").annotate(tokens=tokens):
        if (day := (start - first).days) < days:
            found[nameless if group is None else group][day] += count
    return found


def _gpu_rows(found: list[GpuTime], period: Span) -> Iterator[GpuRow]:
    """Of those that held most."""
    shown = found[:LONGEST]
    spans = [span for one in shown for span in one.at_hand]
    if spans:  # requests at other times say nothing of them
        period = (min(start for start, _ in spans), max(end for _, end in spans))
    busy = _busy_hours(UsageRollup.objects.filter(engine__in=[one.engine.pk for one in shown]), period)
    for one in shown:
        engine, idle_s = one.engine, gpu_hours.idle_s(one, busy[one.engine.pk])
        yield GpuRow(
            name=engine.name,
            model=engine.model,
            gpus=engine.gpus,
            held=one.held_s / 3600,
            idle=idle_s / 3600,
            idle_percent=round(100 * idle_s / one.held_s) if one.held_s else 0,
        )


def _busy_hours(rollups: QuerySet[UsageRollup], period: Span) -> dict[UUID, set[datetime]]:
    """By engine: the hours in which requests began."""
    from_hour = start_of(UsageRollup.Period.HOUR, period[0])
    hours: dict[UUID, set[datetime]] = defaultdict(set)
    rows = rollups.filter(period=UsageRollup.Period.HOUR, start__gte=from_hour, start__lt=period[1]).order_by()
    for engine, start in rows.values_list("engine_id", "start").distinct():
        hours[engine].add(start)
    return hours
