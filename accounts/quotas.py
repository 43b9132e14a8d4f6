"""What people and their API keys may spend: the only place that changes limits and numbers on someone's order. (What
requests cost is added by the ledger, `inference.usage`.)

The live counters are a hash in Redis, `quota:<subject>`, which the data plane loads from the database when it is not
there: pl gl (limits), pu gu (used), pr gr (reserved by open requests), ver (version of the rights), on (1 or 0), rm tm
td tM so (limits by time and number, "" for none). A subject is a user, by its id, or an API key, "k" and its id; a key
without a limit of its own has MOST. Whoever changes a row tells the hash after the commit, under the ledger's lock: a
load that read the row before the commit has then written what it read, and what is told here comes after it.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
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

# What nobody uses just now is not loaded, and stays so: half a hash would pass for a whole one.
_SET_IF_LOADED = """
if redis.call('GET', 'lock:ledger') ~= ARGV[1] then return redis.error_reply('LOST the lock of the ledger') end
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], unpack(ARGV, 2)) end
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
    return f"quota:{subject}"


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
        live = client().hmget(key(subject), "pu", "pl", "pr", "gu", "gl", "gr")
    except redis.RedisError as error:
        logger.warning("live counters cannot be read: %s", error)
        live = [None]
    if None in live:
        limit = rows.get()
        live = [limit.prompt_token_number, _or_most(limit.prompt_token_limit), 0]
        live += [limit.gen_token_number, _or_most(limit.gen_token_limit), 0]
    prompt, prompt_limit, prompt_reserved, generated, generated_limit, generated_reserved = map(int, live)
    return Numbers(
        prompt_token_number=prompt,
        prompt_token_limit=prompt_limit,
        prompt_tokens_reserved=prompt_reserved,
        gen_token_number=generated,
        gen_token_limit=generated_limit,
        gen_tokens_reserved=generated_reserved,
    )


def _or_most(limit: int | None) -> int:
    return MOST if limit is None else limit


def set_limits(user: User, prompt: int | None = None, generated: int | None = None) -> None:
    """0 to MOST tokens; None leaves a limit as it is. Counts from the user's next request on."""
    _update(user, push_limits, prompt_token_limit=prompt, gen_token_limit=generated)


def double_limits(user: User) -> None:
    twice = {name: Least(F(name) * 2, Value(MOST)) for name in ("prompt_token_limit", "gen_token_limit")}
    _update(user, push_limits, **twice)


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


def drop(subject: int | str) -> None:
    """Forgets the live counters: the next request loads them, with what is open and not written yet. As `push_limits`,
    but for changed numbers, which a load at the same time may or may not have seen."""
    _tell(subject, ())


def _tell(subject: int | str, fields: tuple[str, ...]) -> None:
    try:
        with holding_ledger() as lock:
            columns = _rows([str(subject)]).get(str(subject))
            if columns is None or not fields:
                client().delete(key(subject))
            else:
                _set_if_loaded(lock, subject, {name: columns[name] for name in fields})
    except redis.RedisError as error:
        logger.warning("live counters of %s were not told of a change: %s", subject, error)


def correct_all() -> int:
    """Makes limits and standing of all loaded counters those of the database, for what was not told because Redis was
    away; how many were wrong. Two queries and a few round trips. Raises redis.RedisError, DatabaseError."""
    with holding_ledger() as lock:
        loaded = [name.removeprefix("quota:") for name in client().scan_iter("quota:*", count=1000)]
        rows = _rows(loaded)
        reading = client().pipeline(transaction=False)
        for subject in loaded:
            reading.hmget(key(subject), *_TOLD, *_PACES)
        corrected = 0
        for subject, live in zip(loaded, reading.execute(), strict=True):
            columns = rows.get(subject)
            if columns is None or live[len(_TOLD) :] != [columns[name] for name in _PACES]:
                corrected += client().delete(key(subject))  # a limit by time needs what its time has cost so far
            elif live != list(columns.values()):
                _set_if_loaded(lock, subject, columns)
                corrected += 1
    return corrected


def _set_if_loaded(lock: redis.lock.Lock, subject: int | str, columns: dict[str, str]) -> None:
    parts = (part for column in columns.items() for part in column)
    client().eval(_SET_IF_LOADED, 1, key(subject), token_of(lock), *parts)


_TOLD = ("pl", "gl", "ver", "on")
_PACES = {
    "rm": "requests_per_minute",
    "tm": "tokens_per_minute",
    "td": "tokens_per_day",
    "tM": "tokens_per_month",
    "so": "requests_at_once",
}


def _rows(subjects: Iterable[str]) -> dict[str, dict[str, str]]:
    """The fields of each subject's hash that the database decides alone."""
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


def _columns(limit: TokenLimit | KeyLimit, version: int, counts: bool) -> dict[str, str]:
    prompt, generated = _or_most(limit.prompt_token_limit), _or_most(limit.gen_token_limit)
    told = {"pl": str(prompt), "gl": str(generated), "ver": str(version), "on": str(int(counts))}
    paces = {name: getattr(limit, column) for name, column in _PACES.items()}
    return told | {name: "" if pace is None else str(pace) for name, pace in paces.items()}
