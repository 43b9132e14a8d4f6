"""What people may spend: the only place that changes limits and numbers on someone's order. (What requests cost is
added by the ledger, `inference.usage`.)

The live counters are a hash in Redis, `quota:<user id>`, which the data plane loads from the database when it is not
there: pl gl (limits), pu gu (used), pr gr (reserved by open requests), ver (token version), on (1 or 0).
Whoever changes a row tells the hash after the commit, under the ledger's lock: a load that read the row before the
commit has then written what it read, and what is told here comes after it.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypedDict

import redis
import redis.lock
from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest, Least

from accounts.models import TokenLimit, User
from vllm_portal.redis_client import client

logger = logging.getLogger(__name__)

MOST = 2**53 - 1
"""The largest limit or number. Redis's scripts compute with doubles: above this they would lose single tokens."""

# What nobody uses just now is not loaded, and stays so: half a hash would pass for a whole one.
_SET_IF_LOADED = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], unpack(ARGV)) end"


class Numbers(TypedDict):
    """Tokens. Reserved is what open requests may still use; it is not in the numbers yet."""

    prompt_token_number: int
    prompt_token_limit: int
    prompt_tokens_reserved: int
    gen_token_number: int
    gen_token_limit: int
    gen_tokens_reserved: int


def key(user_id: int) -> str:
    """Name of the user's live counters in Redis."""
    return f"quota:{user_id}"


def ledger_lock() -> redis.lock.Lock:
    """Held by whoever loads live counters, writes the ledger to the database, or corrects live counters."""
    return client().lock("lock:ledger", timeout=60, blocking_timeout=5, sleep=0.01)


def live_numbers(user: User) -> Numbers:
    """As of now; of the database (half a second old at most) when the counters are not loaded or Redis is away."""
    try:
        live = client().hmget(key(user.pk), "pu", "pl", "pr", "gu", "gl", "gr")
    except redis.RedisError as error:
        logger.warning("live counters cannot be read: %s", error)
        live = [None]
    if None in live:
        limit = TokenLimit.objects.get(user_id=user.pk)
        live = [limit.prompt_token_number, limit.prompt_token_limit, 0]
        live += [limit.gen_token_number, limit.gen_token_limit, 0]
    prompt, prompt_limit, prompt_reserved, generated, generated_limit, generated_reserved = map(int, live)
    return Numbers(
        prompt_token_number=prompt,
        prompt_token_limit=prompt_limit,
        prompt_tokens_reserved=prompt_reserved,
        gen_token_number=generated,
        gen_token_limit=generated_limit,
        gen_tokens_reserved=generated_reserved,
    )


def set_limits(user: User, prompt: int | None = None, generated: int | None = None) -> None:
    """0 to MOST tokens; None leaves a limit as it is. Counts from the user's next request on."""
    _update(user, push_limits, prompt_token_limit=prompt, gen_token_limit=generated)


def double_limits(user: User) -> None:
    twice = {name: Least(F(name) * 2, Value(MOST)) for name in ("prompt_token_limit", "gen_token_limit")}
    _update(user, push_limits, **twice)


def set_numbers(user: User, prompt: int | None = None, generated: int | None = None) -> None:
    """The used tokens become these, 0 to MOST; None leaves a number as it is. What requests that have ended but are
    not in the database yet have cost comes on top."""
    _update(user, drop, prompt_token_number=prompt, gen_token_number=generated)


def add_numbers(user: User, prompt: int = 0, generated: int = 0) -> None:
    """Adds to the used tokens; less than none given back leaves 0. For whoever decided by a number that was shown to
    them: what was spent since then stays spent."""
    added = {"prompt_token_number": prompt, "gen_token_number": generated}
    _update(user, drop, **{name: Greatest(F(name) + delta, Value(0)) for name, delta in added.items() if delta})


def _update(user: User, tell: Callable[[int], None], **columns: object) -> None:
    """Writes the columns that are not None with one UPDATE, and tells after the commit."""
    given = {name: value for name, value in columns.items() if value is not None}
    if not given:
        return
    with transaction.atomic():
        TokenLimit.objects.filter(user_id=user.pk).update(**given)
        transaction.on_commit(partial(tell, user.pk))


def push_limits(user_id: int) -> None:
    """Tells the live counters the limits in the database. To be called after the commit; never raises when Redis is
    away: `correct_all` does it later."""
    _tell(user_id, ("pl", "gl"))


def push_standing(user_id: int) -> None:
    """Tells the live counters whether the user is active, and which tokens count; otherwise as `push_limits`."""
    _tell(user_id, ("ver", "on"))


def drop(user_id: int) -> None:
    """Forgets the live counters: the next request loads them, with what is open and not written yet. As `push_limits`,
    but for changed numbers, which a load at the same time may or may not have seen."""
    _tell(user_id, ())


def _tell(user_id: int, fields: tuple[str, ...]) -> None:
    try:
        with ledger_lock():
            columns = _rows([user_id]).get(user_id)
            if columns is None or not fields:
                client().delete(key(user_id))
            else:
                _set_if_loaded(user_id, {name: columns[name] for name in fields})
    except redis.RedisError as error:
        logger.warning("live counters of user %s were not told of a change: %s", user_id, error)


def correct_all() -> int:
    """Makes limits and standing of all loaded counters those of the database, for what was not told because Redis was
    away; how many were wrong. One query and a few round trips. Raises redis.RedisError, DatabaseError."""
    with ledger_lock():
        loaded = {int(name.removeprefix("quota:")): name for name in client().scan_iter("quota:*", count=1000)}
        rows = _rows(loaded)
        reading = client().pipeline(transaction=False)
        for name in loaded.values():
            reading.hmget(name, "pl", "gl", "ver", "on")
        corrected = 0
        for user_id, live in zip(loaded, reading.execute(), strict=True):
            columns = rows.get(user_id)
            if columns is None:
                corrected += client().delete(key(user_id))
            elif live != list(columns.values()):
                _set_if_loaded(user_id, columns)
                corrected += 1
    return corrected


def _set_if_loaded(user_id: int, columns: dict[str, str]) -> None:
    client().eval(_SET_IF_LOADED, 1, key(user_id), *(part for column in columns.items() for part in column))


def _rows(user_ids: Iterable[int]) -> dict[int, dict[str, str]]:
    """The fields of each user's hash that the database decides alone."""
    rows = User.objects.filter(pk__in=user_ids, token_limit__isnull=False).values_list(
        "pk", "token_limit__prompt_token_limit", "token_limit__gen_token_limit", "token_version", "is_active"
    )
    return {
        pk: {"pl": str(prompt), "gl": str(generated), "ver": str(version), "on": str(int(active))}
        for pk, prompt, generated, version, active in rows
    }
