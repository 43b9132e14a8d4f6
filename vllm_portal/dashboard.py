"""The admins' first page: what runs, who uses it, what is broken and why."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Count, Max, Sum
from django.http import HttpRequest
from django.utils import timezone

from engines.models import Engine, Gpu
from engines.states import ACTIVE, State
from inference.models import AuditRun, UsageRollup

TOP = 8
RECENT = timedelta(days=1)


class Heavy(NamedTuple):
    """A user of today. `share` is the percentage of the largest one's tokens."""

    username: str
    requests: int
    tokens: int
    share: int


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's callback: adds what `admin/index.html` shows. Nine queries at most, of few rows each."""
    now = timezone.now()
    return context | {
        "states": _states(),
        "queued": list(Engine.objects.filter(state=State.QUEUED).select_related("owner").order_by("created_at")[:TOP]),
        "failures": list(
            Engine.objects.filter(state=State.FAILED, ended_at__gte=now - RECENT)
            .select_related("owner")
            .order_by("-ended_at")[:TOP]
        ),
        "gpus": list(Gpu.objects.prefetch_related("leases__engine__owner")),
        "today": _today(now),
        "audit": AuditRun.objects.order_by("-at").first(),
    }


def _states() -> list[tuple[str, str, int]]:
    """(state, its name, how many)."""
    rows = Engine.objects.filter(state__in=ACTIVE).order_by().values_list("state").annotate(count=Count("pk"))
    counted = dict(rows.values_list("state", "count"))
    return [(state.value, state.label, counted[state.value]) for state in State if counted.get(state.value)]


def _today(now: datetime) -> dict[str, Any]:
    """Sums since midnight, UTC."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    rows = UsageRollup.objects.filter(period=UsageRollup.Period.DAY, start=midnight)
    sums = rows.aggregate(
        requests=Sum("requests", default=0),
        prompt=Sum("prompt_tokens", default=0),
        generated=Sum("generated_tokens", default=0),
    )
    by_user = (
        rows.order_by()
        .values("user")
        .annotate(
            name=Max("user__username"),
            count=Sum("requests"),
            tokens=Sum("prompt_tokens") + Sum("generated_tokens"),
        )
        .order_by("-tokens")[:TOP]
    )
    found = list(by_user)
    most = max((row["tokens"] for row in found), default=0) or 1
    users = [
        Heavy(row["name"] or "(removed)", row["count"], row["tokens"], round(100 * row["tokens"] / most))
        for row in found
    ]
    return {**sums, "users": users}
