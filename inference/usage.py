"""From the live ledger to the database, and back. Synchronous; one process at a time holds the ledger's lock.

    outbox (Redis) ── flush ──> UsageRecord + TokenLimit, in one transaction ── then trimmed from the outbox

A crash between the two writes the same records again, which the unique request id turns into nothing. So the database
counts each request once, and `load` can rebuild a user's live counters from it at any time.
"""

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from django.db.models import F, QuerySet, Sum
from redis.lock import Lock

from accounts.models import KeyLimit, Pace, User
from accounts.quotas import MOST, holding_ledger, ledger_lock, release, token_of
from inference import recording
from inference.ledger_link import SCRIPT
from inference.models import UsageRecord
from inference.outbox import OUTBOX, records_of
from vllm_portal.redis_client import client

logger = logging.getLogger(__name__)

BATCH = 2000  # records; the rows of users and keys are added to once a batch
ELEMENTS = 500  # of the outbox that are read at once: each holds the records of one call of the ledger, mostly a few

# Trims only what was written: had the lock run out, another process may have trimmed it already.
_TRIM = """
if redis.call('LINDEX', KEYS[1], 0) == ARGV[1] and redis.call('LINDEX', KEYS[1], ARGV[2] - 1) == ARGV[3] then
  redis.call('LTRIM', KEYS[1], ARGV[2], -1) return 1
end
return 0
"""


@lru_cache(maxsize=1)
def _script() -> Any:
    return client().register_script(SCRIPT.decode())


def spelt(*operation: object) -> str:
    """An operation of the live ledger, its name and arguments, as its script reads them."""
    return "\0".join(map(str, operation))


def flush(older_than_s: float = 0) -> int:
    """Writes what is in the outbox to the database, if its oldest record waits for that long; how many records. 0 also
    where somebody else is writing. Raises redis.RedisError, DatabaseError: nothing is lost, the next flush does it."""
    oldest = client().lindex(OUTBOX, 0)
    if oldest is None:
        return 0
    (first,) = records_of([oldest.partition("\n")[0]])
    if older_than_s and time.time() - first.ended_ms / 1000 < older_than_s:
        return 0
    lock = ledger_lock()
    if not lock.acquire(blocking=False):
        return 0  # somebody is at it
    try:
        return _flush(lock)
    finally:
        release(lock)


def load(subject: str) -> bool:
    """Puts the limits and counters of a user ("7") or an API key ("k7") from the database into the live ledger. False:
    there is no such subject (any more). Raises redis.RedisError, DatabaseError."""
    return subject in load_all([subject])


def load_all(subjects: Iterable[str]) -> set[str]:
    """As `load`, of several: what there is of them. The outbox is written once for all."""
    with holding_ledger() as lock:
        _flush(lock)
        found = {subject: columns for subject in subjects if (columns := _columns(subject)) is not None}
        loads = [spelt("load", subject, *columns) for subject, columns in found.items()]
        _script()(
            args=["", 0, datetime.now(UTC).strftime("%Y%m"), "", spelt("holding", token_of(lock).decode()), *loads]
        )
        return set(found)


Columns = list[int | str]


def _columns(subject: str) -> Columns | None:
    return _key_columns(int(subject[1:])) if subject.startswith("k") else _user_columns(int(subject))


def _user_columns(user_id: int) -> Columns | None:
    user = User.objects.select_related("token_limit").filter(pk=user_id).first()
    if user is None:
        return None
    limit = user.token_limit
    return [
        limit.prompt_token_limit, limit.gen_token_limit, limit.prompt_token_number, limit.gen_token_number,
        user.token_version, int(user.is_active), *_pace(limit, UsageRecord.objects.filter(user_id=user_id)),
    ]  # fmt: skip


def _key_columns(key_id: int) -> Columns | None:
    """Whether the key has expired is the caller's look-up to say; whether its user is active, the user's counters."""
    limit = KeyLimit.objects.select_related("key").filter(pk=key_id).first()
    if limit is None:
        return None
    return [
        MOST if limit.prompt_token_limit is None else limit.prompt_token_limit,
        MOST if limit.gen_token_limit is None else limit.gen_token_limit,
        limit.prompt_token_number, limit.gen_token_number, limit.key.version, int(limit.key.revoked_at is None),
        *_pace(limit, UsageRecord.objects.filter(api_key_id=key_id)),
    ]  # fmt: skip


def _pace(limit: Pace, records: QuerySet[UsageRecord]) -> Columns:
    """The limits by time and number (-1: none), and what today and this month have cost where that is limited."""
    names = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "tokens_per_month", "requests_at_once")
    paces: Columns = [-1 if (value := getattr(limit, name)) is None else value for name in names]
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    spent = [
        _spent(records.filter(started_at__gte=since)) if limited is not None else 0
        for limited, since in ((limit.tokens_per_day, midnight), (limit.tokens_per_month, midnight.replace(day=1)))
    ]
    return [*paces, *spent]


def _spent(records: QuerySet[UsageRecord]) -> int:
    return records.aggregate(tokens=Sum(F("prompt_tokens") + F("generated_tokens")))["tokens"] or 0


def _flush(lock: Lock) -> int:
    """What was in the outbox when this began: under load it never gets empty, and others want the lock."""
    written = 0
    for _ in range(-(-client().llen(OUTBOX) // ELEMENTS)):
        elements = client().lrange(OUTBOX, 0, ELEMENTS - 1)
        if not elements:
            break
        records = records_of(elements)
        for start in range(0, len(records), BATCH):
            if start:
                lock.reacquire()
            recording.write(records[start : start + BATCH])
        client().eval(_TRIM, 1, OUTBOX, elements[0], len(elements), elements[-1])
        written += len(records)
        lock.reacquire()
    return written
