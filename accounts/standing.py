"""What a caller may still do: each limit with what is used of it, and when it is full again."""

import time
from calendar import timegm
from datetime import UTC, datetime
from typing import Any, TypedDict

import redis

from accounts import quotas
from accounts.models import ApiKey, Pace, User
from accounts.quotas import MOST, Numbers
from vllm_portal.redis_client import client


class Allowance(TypedDict):
    """Tokens, or requests. None: no limit, or for `used` that it cannot be read now. What is neither used nor held by
    requests under way remains."""

    limit: int | None
    used: int | None
    reserved: int
    remaining: int | None


class TimedAllowance(Allowance):
    """`used` counts what requests under way hold, too. `resets_at`: when the calendar window (UTC) ends."""

    name: str
    resets_at: datetime | None


class Standing(TypedDict):
    prompt_tokens: Allowance
    generated_tokens: Allowance
    resets: None
    """The two above are limits in total."""
    rates: list[TimedAllowance]
    """The limits by time and number that there are."""


def of_user(user: User) -> Standing:
    return _standing(quotas.live_numbers(user), user.token_limit, str(user.pk))


def of_key(key: ApiKey) -> Standing:
    """Within its user's, which count as well."""
    return _standing(quotas.live_key_numbers(key), key.limit, quotas.of_key(key.pk))


def rates_of_key(key: ApiKey) -> list[TimedAllowance]:
    """The key's own limits by time and number, `limit` being loaded; it asks nobody where there are none."""
    return _rates(key.limit, quotas.of_key(key.pk))


def _standing(numbers: Numbers, limits: Pace, subject: str) -> Standing:
    return Standing(
        prompt_tokens=_total(
            numbers["prompt_token_limit"], numbers["prompt_token_number"], numbers["prompt_tokens_reserved"]
        ),
        generated_tokens=_total(
            numbers["gen_token_limit"], numbers["gen_token_number"], numbers["gen_tokens_reserved"]
        ),
        resets=None,
        rates=_rates(limits, subject),
    )


def _total(limit: int, used: int, reserved: int) -> Allowance:
    if limit == MOST:
        return Allowance(limit=None, used=used, reserved=reserved, remaining=None)
    return Allowance(limit=limit, used=used, reserved=reserved, remaining=max(0, limit - used - reserved))


def _rates(limits: Pace, subject: str) -> list[TimedAllowance]:
    now = int(time.time())
    today = time.gmtime(now)
    next_month = timegm((today.tm_year + today.tm_mon // 12, today.tm_mon % 12 + 1, 1, 0, 0, 0))
    windows: dict[str, tuple[str, int]] = {
        "tokens_per_minute": (f"win:{subject}:m{now // 60}", now - now % 60 + 60),
        "tokens_per_day": (f"win:{subject}:d{now // 86400}", now - now % 86400 + 86400),
        "tokens_per_month": (f"win:{subject}:M{today.tm_year}{today.tm_mon:02}", next_month),
    }
    rates = []
    if limits.requests_per_minute is not None:
        requests = _requests(subject, now // 60)[0]
        rates.append(_rate("requests_per_minute", limits.requests_per_minute, requests, now - now % 60 + 60))
    limited = [name for name in windows if getattr(limits, name) is not None]
    used = _read([windows[name][0] for name in limited])
    rates += [_rate(name, getattr(limits, name), used[windows[name][0]], windows[name][1]) for name in limited]
    if limits.requests_at_once is not None:
        rates.append(_rate("requests_at_once", limits.requests_at_once, _requests(subject, 0)[1], None))
    return rates


def _rate(name: str, limit: int, used: int | None, resets: int | None) -> TimedAllowance:
    return TimedAllowance(
        name=name,
        limit=limit,
        used=used,
        reserved=0,
        remaining=None if used is None else max(0, limit - used),
        resets_at=None if resets is None else datetime.fromtimestamp(resets, UTC),
    )


def _read(names: list[str]) -> dict[str, int | None]:
    try:
        values: Any = client().mget(names) if names else []
    except redis.RedisError:
        return dict.fromkeys(names)
    return {name: int(value or 0) for name, value in zip(names, values, strict=True)}


def _requests(subject: str, minute: int) -> tuple[int | None, int | None]:
    """(in this minute, at once); None: Redis is away."""
    try:
        live = quotas.live_row(subject)
    except redis.RedisError:
        return None, None
    return (live["rn"] if live["rw"] == minute else 0, live["n"]) if live else (0, 0)
