"""Settled requests become rows: a usage record each, and what it adds to the sums and what users and keys have used."""

from collections import defaultdict
from collections.abc import Iterable

from django.db import transaction

from accounts.models import ApiKey, KeyLimit, TokenLimit
from engines.models import Engine
from inference import batches, rollups
from inference.models import UsageRecord
from inference.outbox import Settled

_FIELDS = (
    "request_id", "user", "api_key", "engine", "model", "path", "streamed", "prompt_tokens", "cached_tokens",
    "generated_tokens", "reserved_tokens", "exact", "outcome", "started_at", "first_token_ms", "duration_ms",
)  # fmt: skip


def write(settled: Iterable[Settled]) -> None:
    """In one transaction. What was written before is not written again."""
    by_id = {one.request_id: one for one in settled}
    with transaction.atomic():
        # Locked in one order: whoever writes the same records at once waits here and then finds them written.
        users = batches.among(TokenLimit, "user", {one.user_id for one in by_id.values()}, lock=True)
        written = batches.among(UsageRecord, "request_id", by_id)
        new = [one for request_id, one in by_id.items() if request_id not in written]
        _forget_who_is_gone(new, users)
        batches.insert(UsageRecord, _FIELDS, _rows(new))
        rollups.add(new)
        _charge(TokenLimit, [(one.user_id, one) for one in new])
        _charge(KeyLimit, [(one.api_key_id, one) for one in new])


def _forget_who_is_gone(new: list[Settled], users: set[int]) -> None:
    keys = batches.among(ApiKey, "id", {one.api_key_id for one in new} - {None})
    engines = Engine.objects.filter(pk__in={one.engine_id for one in new})
    known_engines = set(map(str, engines.values_list("pk", flat=True)))
    for one in new:
        if one.user_id not in users:
            one.user_id = None
        if one.api_key_id not in keys:
            one.api_key_id = None
        if one.engine_id not in known_engines:
            one.engine_id = None


def _rows(new: list[Settled]) -> list[tuple[object, ...]]:
    engines = batches.prepared_all(UsageRecord, "engine", {one.engine_id for one in new})
    return [
        (
            one.request_id,
            one.user_id,
            one.api_key_id,
            engines[one.engine_id],
            one.model,
            one.path,
            one.streamed,
            one.prompt_tokens,
            one.cached_tokens,
            one.generated_tokens,
            one.reserved_tokens,
            one.exact,
            one.outcome,
            started_at,
            one.first_token_ms,
            one.duration_ms,
        )
        for one, started_at in zip(new, batches.moments(one.started_ms for one in new), strict=True)
    ]


def _charge(table: type[TokenLimit] | type[KeyLimit], spent: Iterable[tuple[int | None, Settled]]) -> None:
    """Adds what requests cost to the rows of their users or keys, in one order for all who do so at once."""
    totals: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for subject, one in spent:
        if subject is not None:
            total = totals[subject]
            total[0] += one.prompt_tokens
            total[1] += one.generated_tokens
    rows = [(pk, prompt, generated) for pk, (prompt, generated) in sorted(totals.items())]
    batches.increment(table, table._meta.pk.name, ("prompt_token_number", "gen_token_number"), rows)
