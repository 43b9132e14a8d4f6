"""The page /usage: what one's requests cost, by day, model and key, what is left, and how long one's engines held GPUs.
Admins see everybody's, and their own on demand."""

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts import standing
from accounts.models import User
from inference import everybodys_usage
from inference.plots import by_day, over_time
from inference.summary import SUMS
from inference.usage_figures import DAYS, Figures, figures, first_day

TITLES = {"model": "Model", "key": "API key", "user": "User"}


@never_cache
@login_required
@require_safe
def usage(request: HttpRequest) -> HttpResponse:
    """`?days=` 7, 30, 90 or 365, today being the last; anything else is 30. `?whose=mine` for admins."""
    days, now = _days(request), timezone.now()
    everybody = request.user.is_admin and request.GET.get("whose") != "mine"
    found = everybodys_usage.of(days, now) if everybody else figures(days, request.user, now)
    context = {
        **_shown(found, days, None if everybody else request.user),
        "days": days,
        "choices": DAYS,
        "everybody": everybody,
        "standing": standing.of_user(User.objects.select_related("token_limit").get(pk=request.user.pk)),
    }
    return render(request, "inference/usage.html", context)


def _days(request: HttpRequest) -> int:
    asked = request.GET.get("days", "")
    return int(asked) if asked in map(str, DAYS) else 30


def _shown(found: Figures, days: int, user: User | None) -> dict[str, Any]:
    as_of, daily = datetime.fromisoformat(found["as_of"]), found["daily"]
    first = first_day(as_of, days)
    return {
        "as_of": as_of,
        "plot": by_day(daily, first.date(), days),
        "total": _total(daily),
        "daily": [_cells(row["group"], *(f"{row[name]:,}" for name in SUMS)) for row in reversed(daily)],
        "daily_csv": _csv("day", first, user),
        "tables": [
            {
                **group,
                "rows": [{**row, "drawn": over_time(row["by_day"])} for row in group["rows"]],
                "title": TITLES[group["name"]],
                "csv": _csv(group["name"], first, user),
            }
            for group in found["groups"]
        ],
        "gpus": found["gpus"],
    }


def _cells(*texts: str) -> SafeString:
    """Of a row, in one piece: a year has 365 rows, and a template takes its time for each name that it looks up."""
    return format_html("<td>{}</td>" * len(texts), *texts)


def _total(daily: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(row[name] for row in daily) for name in SUMS}


def _csv(group_by: str, first: datetime, user: User | None) -> str:
    """The same as a file of the API."""
    whose = {} if user is None else {"user": user.pk}
    asked = {"group_by": group_by, "as": "csv", "started_after": f"{first:%Y-%m-%dT%H:%M:%SZ}", **whose}
    return f"{reverse('usage-summary')}?{urlencode(asked)}"
