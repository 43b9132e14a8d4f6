"""The page /usage: what one's requests cost, by day, model and key, what is left, and how long one's engines held GPUs.
Admins see everybody's, and their own on demand."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.cache import cache
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts import standing
from accounts.models import User
from engines import gpu_hours
from engines.gpu_hours import GpuTime
from engines.models import Engine
from inference.models import UsageRecord, UsageRollup
from inference.plots import by_day
from inference.rollups import start_of
from inference.summary import summary

DAYS = (7, 30, 90, 365)
LONGEST = 15  # rows of a table; the CSV has all
REMEMBERED_S = 60  # everybody's numbers: they are sums of much

Span = tuple[datetime, datetime]


@never_cache
@login_required
@require_safe
def usage(request: HttpRequest) -> HttpResponse:
    """`?days=` 7, 30, 90 or 365, today being the last; anything else is 30. `?whose=mine` for admins."""
    days = _days(request)
    everybody = request.user.is_admin and request.GET.get("whose") != "mine"
    context = {
        **(_everybodys(days) if everybody else _figures(days, request.user)),
        "days": days,
        "choices": DAYS,
        "everybody": everybody,
        "standing": standing.of_user(User.objects.select_related("token_limit").get(pk=request.user.pk)),
        "longest": LONGEST,
    }
    return render(request, "inference/usage.html", context)


def _days(request: HttpRequest) -> int:
    asked = request.GET.get("days", "")
    return int(asked) if asked in map(str, DAYS) else 30


def _everybodys(days: int) -> dict[str, Any]:
    """Remembered for a moment by this process: hundreds of thousands of rows are summed up."""
    return cache.get_or_set(f"usage:{days}", lambda: _figures(days, None), REMEMBERED_S)


def _figures(days: int, user: User | None) -> dict[str, Any]:
    """What the page shows of one user, or of all (None)."""
    now = timezone.now().astimezone(UTC)
    first = start_of(UsageRollup.Period.DAY, now) - timedelta(days=days - 1)
    of: dict[str, Any] = {} if user is None else {"user": user}
    records, rollups = UsageRecord.objects.filter(**of), UsageRollup.objects.filter(**of)
    daily = summary(records, rollups, "day", first, now)
    groups = [("model", "Model"), ("key", "API key"), *([("user", "User")] if user is None else [])]
    tables = [
        _table(name, title, summary(records, rollups, name, first, now), _csv(name, first, user))
        for name, title in groups
    ]
    engines = Engine.objects.all() if user is None else Engine.objects.filter(owner=user)
    return {
        "as_of": now,
        "plot": by_day(daily, first.date(), days),
        "total": _total(daily),
        "daily": [{**row, "tokens": row["prompt_tokens"] + row["generated_tokens"]} for row in reversed(daily)],
        "daily_csv": _csv("day", first, user),
        "tables": tables,
        "gpus": list(_gpu_rows(gpu_hours.of(engines, (first, now)), (first, now))),
    }


def _table(name: str, title: str, rows: list[dict[str, Any]], csv: str) -> dict[str, Any]:
    """The rows that cost most, with what each is of the largest, in percent."""
    for row in rows:
        row["tokens"] = row["prompt_tokens"] + row["generated_tokens"]
    rows.sort(key=lambda row: (-row["tokens"], row["group"]))
    largest = max((row["tokens"] for row in rows), default=0) or 1
    shown = [{**row, "percent": round(100 * row["tokens"] / largest, 1)} for row in rows[:LONGEST]]
    return {"name": name, "title": title, "rows": shown, "left_out": max(0, len(rows) - LONGEST), "csv": csv}


def _total(daily: list[dict[str, Any]]) -> dict[str, int]:
    return {
        name: sum(row[name] for row in daily)
        for name in ("requests", "prompt_tokens", "cached_tokens", "generated_tokens")
    }


def _csv(group_by: str, first: datetime, user: User | None) -> str:
    """The same as a file of the API."""
    whose = {} if user is None else {"user": user.pk}
    asked = {"group_by": group_by, "as": "csv", "started_after": f"{first:%Y-%m-%dT%H:%M:%SZ}", **whose}
    return f"{reverse('usage-summary')}?{urlencode(asked)}"


@dataclass(frozen=True, slots=True)
class GpuRow:
    """Hours times GPUs."""

    name: str
    model: str
    gpus: int
    held: float
    idle: float

    @property
    def idle_percent(self) -> int:
        return round(100 * self.idle / self.held) if self.held else 0


def _gpu_rows(found: list[GpuTime], period: Span) -> Iterator[GpuRow]:
    """Of those that held most."""
    shown = found[:LONGEST]
    busy = _busy_hours(UsageRollup.objects.filter(engine__in=[one.engine.pk for one in shown]), period)
    for one in shown:
        engine, idle = one.engine, gpu_hours.idle_s(one, busy[one.engine.pk])
        yield GpuRow(engine.name, engine.model, engine.tensor_parallel_size, one.held_s / 3600, idle / 3600)


def _busy_hours(rollups: QuerySet[UsageRollup], period: Span) -> dict[UUID, set[datetime]]:
    """By engine: the hours in which requests began."""
    from_hour = start_of(UsageRollup.Period.HOUR, period[0])
    hours: dict[UUID, set[datetime]] = defaultdict(set)
    rows = rollups.filter(period=UsageRollup.Period.HOUR, start__gte=from_hour, start__lt=period[1]).order_by()
    for engine, start in rows.values_list("engine_id", "start").distinct():
        hours[engine].add(start)
    return hours
