"""The database against itself: numbers, records, and the records' sums by hour and day."""

from collections.abc import Iterator
from datetime import UTC
from typing import Any

from django.db.models import Count, F, Q, Sum
from django.db.models.functions import TruncDay, TruncHour

from accounts.models import KeyLimit, TokenLimit
from inference.models import UsageRecord, UsageRollup
from inference.rollups import SUMS


def check() -> Iterator[tuple[str, str, str]]:
    yield from _numbers("user_id", TokenLimit, ("prompt_tokens_corrected", "gen_tokens_corrected"))
    yield from _numbers("api_key_id", KeyLimit, None)
    yield from _rollups(UsageRollup.Period.HOUR, TruncHour)
    yield from _rollups(UsageRollup.Period.DAY, TruncDay)


def _numbers(
    column: str, table: type[TokenLimit] | type[KeyLimit], corrections: tuple[str, str] | None
) -> Iterator[tuple[str, str, str]]:
    records = UsageRecord.objects.order_by().exclude(**{column: None}).values_list(column)
    recorded = {
        pk: (prompt, generated)
        for pk, prompt, generated in records.annotate(Sum("prompt_tokens"), Sum("generated_tokens"))
    }
    names = ("prompt_token_number", "gen_token_number", *(corrections or ()))
    for pk, prompt, generated, *corrected in table.objects.values_list("pk", *names):
        subject = f"{pk}" if table is TokenLimit else f"k{pk}"
        more = corrected or (0, 0)
        for kind, number, sum_of, by_hand in zip(
            ("prompt", "generated"), (prompt, generated), recorded.get(pk, (0, 0)), more, strict=True
        ):
            if number != sum_of + by_hand:
                text = f"{number} tokens spent, the records say {sum_of} and {by_hand} were added by hand"
                yield "sums", f"{subject} {kind}", text


def _rollups(period: str, begin: type[TruncHour] | type[TruncDay]) -> Iterator[tuple[str, str, str]]:
    counts: dict[str, Any] = {name: Sum(name) for name in SUMS if name not in ("requests", "completed")}
    counts["requests"] = Count("pk")
    counts["completed"] = Count("pk", filter=Q(outcome=UsageRecord.Outcome.COMPLETED))
    records = UsageRecord.objects.order_by().annotate(begin=begin("started_at", tzinfo=UTC)).values("begin")
    rows = UsageRollup.objects.order_by().filter(period=period).annotate(begin=F("start")).values("begin")
    recorded = {row.pop("begin"): row for row in records.annotate(**{f"{k}_": v for k, v in counts.items()})}
    summed = {row.pop("begin"): row for row in rows.annotate(**{f"{name}_": Sum(name) for name in SUMS})}
    for start in sorted(recorded.keys() | summed.keys()):
        for name in SUMS:
            is_, should = summed.get(start, {}).get(f"{name}_", 0), recorded.get(start, {}).get(f"{name}_", 0)
            if is_ != should:
                about = f"{period} of {start:%Y-%m-%d %H:%M} {name}"
                yield "sums", about, f"the sum is {is_}, the records say {should}"
