"""What people and their API keys may spend: the only place that changes limits and numbers on someone's order. (What
requests cost is added by the ledger, `inference.usage`.)

The live counters are a row in Redis, `counters:<subject>`, which the data plane loads from the database when it is not
there (`FIELDS`; `inference/ledger.lua` says what they mean). A subject is a user, by its id, or an API key, "k" and its
id; a key without a limit of its own has MOST, and -1 is the limit by time that there is not. Whoever changes a row of
the database tells the live one after the commit, under the ledger's lock: a load that read the row before the commit
has then written what it read, and what is told here comes after it.
"""

import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypedDict

import redis
import redis.lock
from django.db import transaction
from django.db.models import BigIntegerField, ExpressionWrapper, F, Value
from django.db.models.functions import Greatest, Least
from django.utils import timezone

from accounts.models import ApiKey, KeyLimit, TokenLimit, User
from vllm_portal.redis_client import client

logger = logging.getLogger(__name__)

MOST = 2**53 - 1
"""The largest limit or number. Redis's scripts compute with doubles: above this they would lose single tokens."""

_CORRECTED = {"prompt_token_number": "prompt_tokens_corrected", "gen_token_number": "gen_tokens_corrected"}

FIELDS = ("on", "ver", "pl", "gl", "pu", "gu", "pr", "gr", "rm", "rw", "rn", "tm", "td", "tM", "so", "n")
ROW = struct.Struct(">" + "d" * len(FIELDS))
"""A whole live row: its numbers in the order of FIELDS. Its `format` means the same to Redis's scripts."""
_UNLIMITED = dict.fromkeys(FIELDS, 0) | {"pl": MOST, "gl": MOST} | dict.fromkeys(("rm", "tm", "td", "tM", "so"), -1)
UNLIMITED = ROW.pack(*_UNLIMITED.values())
"""What a row that ends before its last field goes on with, from there on."""

# What nobody uses just now is not loaded, and stays so.
_SET_IF_LOADED = f"""
if redis.call('GET', 'lock:ledger') ~= ARGV[1] then return redis.error_reply('LOST the lock of the ledger') end
local text = redis.call('GET', KEYS[1])
if text then
  local row = {{struct.unpack('{ROW.format}', text .. string.sub(ARGV[2], #text + 1))}}
  for i = 3, #ARGV, 2 do row[ARGV[i] + 1] = ARGV[i + 1] + 0 end
  redis.call('SET', KEYS[1], struct.pack('{ROW.format}', unpack(row, 1, {len(FIELDS)})))
end
"""


class Numbers(TypedDict):
    """Tokens. Reserved is what open requests may still use; it is not in the numbers yet."""

    prompt_token_number: int
    prompt_token_limit: int
    prompt_tokens_reserved: int
    gen_token_number: int
    gen_token_limit: int
    gen_tokens_reserved: int


def key(subject: int | str) -> str:
    """Name of the subject's live counters in Redis."""
    return f"counters:{subject}"


def live_row(subject: int | str) -> dict[str, int] | None:
    """The subject's live counters, by the names of FIELDS; None: not loaded. Raises redis.RedisError."""
    return _live_rows([subject])[0]


def _live_rows(subjects: Sequence[int | str]) -> list[dict[str, int] | None]:
    texts = client().execute_command("MGET", *map(key, subjects), NEVER_DECODE=[]) if subjects else []
    return [text and _numbers(text) for text in texts]


def _numbers(text: bytes) -> dict[str, int]:
    """Of a live row."""
    return dict(zip(FIELDS, map(int, ROW.unpack(text + UNLIMITED[len(text) :])), strict=True))


def of_key(key_id: int) -> str:
    """The API key as a subject."""
    return f"k{key_id}"


def ledger_lock() -> redis.lock.Lock:
    """Held by whoever loads live counters, writes the ledger to the database, or corrects live counters.

    It runs out, or a holder that was killed would lock the portal up. So a holder may have lost it without knowing:
    who writes counters that were computed under it shows `token_of(lock)`, which Redis compares as it writes. Whoever
    has long work renews it (`lock.reacquire`)."""
    return client().lock("lock:ledger", timeout=10, blocking_timeout=3, sleep=0.01)


@contextmanager
def holding_ledger() -> Iterator[redis.lock.Lock]:
    """Raises redis.exceptions.LockError where somebody else keeps it for longer than one waits."""
    lock = ledger_lock()
    if not lock.acquire():
        raise redis.exceptions.LockError("the ledger is kept locked")
    try:
        yield lock
    finally:
        release(lock)


def release(lock: redis.lock.Lock) -> None:
    """Gives the lock back, unless it had run out and is somebody else's by now."""
    with suppress(redis.exceptions.LockError):
        lock.release()


def token_of(lock: redis.lock.Lock) -> bytes:
    """What Redis knows the holder of this lock by."""
    return lock.local.token


def live_numbers(user: User) -> Numbers:
    """As of now; of the database (half a second old at most) when the counters are not loaded or Redis is away."""
    return _live(user.pk, TokenLimit.objects.filter(user_id=user.pk))


def live_key_numbers(key: ApiKey) -> Numbers:
    """As `live_numbers`, of one API key; a limit is MOST where the key has none of its own."""
    return _live(of_key(key.pk), KeyLimit.objects.filter(key_id=key.pk))


def _live(subject: int | str, rows: Any) -> Numbers:
    try:
        live = live_row(subject)
    except redis.RedisError as error:
        logger.warning("live counters cannot be read: %s", error)
        live = None
    if live is None or is_unlimited(live):  # without any limit nothing is counted there
        limit = rows.get()
        live = {"pu": limit.prompt_token_number, "pl": _or_most(limit.prompt_token_limit), "pr": 0}
        live |= {"gu": limit.gen_token_number, "gl": _or_most(limit.gen_token_limit), "gr": 0}
    return Numbers(
        prompt_token_number=live["pu"],
        prompt_token_limit=live["pl"],
        prompt_tokens_reserved=live["pr"],
        gen_token_number=live["gu"],
        gen_token_limit=live["gl"],
        gen_tokens_reserved=live["gr"],
    )


def is_unlimited(row: dict[str, int]) -> bool:
    """Such an API key's numbers are only in the database."""
    return row["pl"] >= MOST and row["gl"] >= MOST and all(row[name] < 0 for name in _PACES)


def _or_most(limit: int | None) -> int:
    return MOST if limit is None else limit


def set_limits(user: User, prompt: int | None = None, generated: int | None = None) -> None:
    """0 to MOST tokens; None leaves a limit as it is. Counts from the user's next request on."""
    _update(user, push_limits, prompt_token_limit=prompt, gen_token_limit=generated)


def double_limits(user: User) -> None:
    twice = {name: Least(F(name) * 2, Value(MOST)) for name in ("prompt_token_limit", "gen_token_limit")}
    _update(user, push_limits, **twice)


def raise_limits(user: User, prompt: int, generated: int) -> None:
    """By so many tokens, up to MOST."""
    more = {"prompt_token_limit": prompt, "gen_token_limit": generated}
    raised = {name: Least(F(name) + tokens, Value(MOST)) for name, tokens in more.items() if tokens}
    _update(user, push_limits, **raised)


def set_paces(user: User, paces: dict[str, int | None]) -> None:
    """Limits by time and number, by the names of their columns; None: no such limit, what is not in it stays. The
    counters are loaded anew, with what today and this month have cost so far."""
    if paces:
        with transaction.atomic():
            TokenLimit.objects.filter(user_id=user.pk).update(**paces)
            transaction.on_commit(partial(drop, user.pk))


def set_numbers(user: User, prompt: int | None = None, generated: int | None = None) -> None:
    """The used tokens become these, 0 to MOST; None leaves a number as it is. What requests that have ended but are
    not in the database yet have cost comes on top."""
    _correct(user, {"prompt_token_number": prompt, "gen_token_number": generated})


def add_numbers(user: User, prompt: int = 0, generated: int = 0) -> None:
    """Adds to the used tokens; less than none given back leaves 0. For whoever decided by a number that was shown to
    them: what was spent since then stays spent."""
    added = {"prompt_token_number": prompt, "gen_token_number": generated}
    _correct(user, {name: Greatest(F(name) + delta, Value(0)) for name, delta in added.items() if delta})


def _correct(user: User, numbers: dict[str, Any]) -> None:
    """The columns become what is given (None: stay), and by how much they change is kept beside them."""
    columns = {}
    for name, corrected in _CORRECTED.items():
        if (number := numbers.get(name)) is not None:
            columns[name] = number
            columns[corrected] = ExpressionWrapper(F(corrected) + number - F(name), output_field=BigIntegerField())
    _update(user, drop, **columns)


def _update(user: User, tell: Callable[[int], None], **columns: object) -> None:
    """Writes the columns that are not None with one UPDATE, and tells after the commit."""
    given = {name: value for name, value in columns.items() if value is not None}
    if not given:
        return
    with transaction.atomic():
        TokenLimit.objects.filter(user_id=user.pk).update(**given, updated_at=timezone.now())
        transaction.on_commit(partial(tell, user.pk))


def push_limits(user_id: int) -> None:
    """Tells the live counters the limits in the database. To be called after the commit; never raises when Redis is
    away: `correct_all` does it later."""
    _tell(user_id, ("pl", "gl"))


def push_standing(user_id: int) -> None:
    """Tells the live counters whether the user is active, and which tokens count; otherwise as `push_limits`."""
    _tell(user_id, ("ver", "on"))


def push_key(key_id: int) -> None:
    """Tells the live counters an API key's limits, and whether it counts; otherwise as `push_limits`."""
    _tell(of_key(key_id), ("ver", "on", "pl", "gl"))


def drop(subject: int | str) -> bool:
    """Forgets the live counters: the next request loads them, with what is open and not written yet. As `push_limits`,
    but for changed numbers, which a load at the same time may or may not have seen. False: Redis was away, or the
    ledger kept locked."""
    return _tell(subject, ())


def _tell(subject: int | str, fields: tuple[str, ...]) -> bool:
    try:
        with holding_ledger() as lock:
            columns, live = _rows([str(subject)]).get(str(subject)), live_row(subject)
            if columns is None or not fields or (live and _must_be_loaded(live, columns)):
                client().delete(key(subject))
            else:
                _set_if_loaded(lock, subject, {name: columns[name] for name in fields})
    except redis.RedisError as error:
        logger.warning("live counters of %s were not told of a change: %s", subject, error)
        return False
    return True


def correct_all() -> int:
    """Makes limits and standing of all loaded counters those of the database, for what was not told because Redis was
    away; how many were wrong. Two queries and a few round trips. Raises redis.RedisError, DatabaseError."""
    with holding_ledger() as lock:
        loaded = [name.removeprefix("counters:") for name in client().scan_iter("counters:*", count=1000)]
        rows = _rows(loaded)
        corrected = 0
        for subject, live in zip(loaded, _live_rows(loaded), strict=True):
            columns = rows.get(subject)
            if live is None or columns is None or _must_be_loaded(live, columns):
                corrected += client().delete(key(subject))
            elif any(live[name] != value for name, value in columns.items()):
                _set_if_loaded(lock, subject, columns)
                corrected += 1
    return corrected


def _must_be_loaded(live: dict[str, int], columns: dict[str, int]) -> bool:
    """Whether these columns change what is counted: a limit by time needs what its time has cost so far."""
    return any(live[name] != columns[name] for name in _PACES) or is_unlimited(live) != is_unlimited(columns)


def _set_if_loaded(lock: redis.lock.Lock, subject: int | str, columns: dict[str, int]) -> None:
    parts = (part for name, value in columns.items() for part in (FIELDS.index(name), value))
    client().eval(_SET_IF_LOADED, 1, key(subject), token_of(lock), UNLIMITED, *parts)


_PACES = {
    "rm": "requests_per_minute",
    "tm": "tokens_per_minute",
    "td": "tokens_per_day",
    "tM": "tokens_per_month",
    "so": "requests_at_once",
}


def _rows(subjects: Iterable[str]) -> dict[str, dict[str, int]]:
    """The fields of each subject's row that the database decides alone."""
    subjects = list(subjects)
    user_ids = [subject for subject in subjects if subject.isdecimal()]
    key_ids = [subject[1:] for subject in subjects if subject.startswith("k") and subject[1:].isdecimal()]
    limits = ("prompt_token_limit", "gen_token_limit", *_PACES.values())
    users = TokenLimit.objects.filter(user_id__in=user_ids).select_related("user")
    keys = KeyLimit.objects.filter(key_id__in=key_ids).select_related("key")
    found = {
        str(limit.user_id): _columns(limit, limit.user.token_version, limit.user.is_active)
        for limit in users.only(*limits, "user__token_version", "user__is_active")
    }
    for limit in keys.only(*limits, "key__version", "key__revoked_at"):
        found[of_key(limit.key_id)] = _columns(limit, limit.key.version, limit.key.revoked_at is None)
    return found


def _columns(limit: TokenLimit | KeyLimit, version: int, counts: bool) -> dict[str, int]:
    prompt, generated = _or_most(limit.prompt_token_limit), _or_most(limit.gen_token_limit)
    told = {"pl": prompt, "gl": generated, "ver": version, "on": int(counts)}
    paces = {name: getattr(limit, column) for name, column in _PACES.items()}
    return told | {name: -1 if pace is None else pace for name, pace in paces.items()}
