"""Settled requests on their way from the live ledger to the database: a list in Redis (`ledger.lua` says of what)."""

from collections.abc import Iterable

import msgspec

OUTBOX = "outbox"


class Settled(msgspec.Struct, rename={"api_key_id": "key_id"}):
    """What a request cost, as the live ledger tells it, in the fields of a `UsageRecord`. Whom it names may be gone."""

    request_id: str
    user_id: int | None
    engine_id: str | None
    model: str
    path: str
    streamed: bool
    prompt_tokens: int
    generated_tokens: int
    exact: bool
    outcome: str
    started_ms: int
    duration_ms: int
    api_key_id: int | None = None
    cached_tokens: int = 0
    reserved_tokens: int | None = None
    first_token_ms: int | None = None

    @property
    def hour(self) -> int:
        """In which it began, since the epoch."""
        return self.started_ms // 3_600_000

    @property
    def ended_ms(self) -> int:
        return self.started_ms + self.duration_ms


_decode_lines = msgspec.json.Decoder(Settled).decode_lines


def records_of(elements: Iterable[str]) -> list[Settled]:
    """What elements of the outbox hold, a line each."""
    return _decode_lines("\n".join(elements))
