"""What the ledger says, read from outside: records, numbers, reservations."""

from accounts.models import TokenLimit
from inference.models import UsageRecord
from tests.live_rows import row


def records() -> list[UsageRecord]:
    return list(UsageRecord.objects.order_by("id"))


def numbers(user) -> tuple[int, int]:
    """(prompt, generated) tokens that the user has spent."""
    row = TokenLimit.objects.get(user=user)
    return row.prompt_token_number, row.gen_token_number


def reserved(user) -> list[int]:
    live = row(user.pk)
    return [live["pr"], live["gr"]]
