"""What the database says of the subjects that are live."""

from datetime import datetime
from typing import NamedTuple

from django.db.models import Max

from accounts.models import KeyLimit, TokenLimit
from inference.audit.live import Live
from inference.models import UsageRecord


class Number(NamedTuple):
    """Tokens (prompt, generated) that a subject has spent, and when its limits or numbers were changed by hand."""

    spent: tuple[int, int]
    changed_at: datetime | None


class Numbers(NamedTuple):
    subjects: dict[str, Number]
    recorded: set[str]
    """The open requests that have a record already."""


def read(live: Live) -> Numbers:
    users = [int(subject) for subject in live.quotas if not subject.startswith("k")]
    keys = [int(subject[1:]) for subject in live.quotas if subject.startswith("k")]
    found: dict[str, Number] = {}
    columns = ("pk", "prompt_token_number", "gen_token_number", "updated_at")
    for prefix, rows in (
        ("", TokenLimit.objects.filter(pk__in=users)),
        ("k", KeyLimit.objects.filter(pk__in=keys)),
    ):
        for pk, prompt, generated, changed_at in rows.values_list(*columns):
            found[f"{prefix}{pk}"] = Number((prompt, generated), changed_at)
    recorded = UsageRecord.objects.filter(request_id__in=live.open).values_list("request_id", flat=True)
    return Numbers(found, set(recorded))


def newest_start(subject: str) -> datetime | None:
    """When the subject's latest recorded request began."""
    column = "api_key_id" if subject.startswith("k") else "user_id"
    records = UsageRecord.objects.filter(**{column: int(subject.removeprefix("k"))})
    return records.aggregate(newest=Max("started_at"))["newest"]
