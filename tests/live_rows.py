"""The live ledger in Redis, read and written from outside: what tests break on purpose."""

import json
import time

from accounts import quotas
from vllm_portal.redis_client import client

PROCESS = "a-process"


def row(subject: int | str) -> dict[str, int]:
    """The subject's live counters, without the limits that there are not; empty when they are not loaded."""
    return {name: value for name, value in (quotas.live_row(subject) or {}).items() if value >= 0}


def put_row(subject: int | str, **fields: int) -> None:
    """Counters without limits by time, but for what is given."""
    values = {name: -1 if name in ("rm", "tm", "td", "tM", "so") else 0 for name in quotas.FIELDS}
    values |= {"on": 1, "ver": 1, **fields}
    client().set(quotas.key(subject), quotas.ROW.pack(*(values[name] for name in quotas.FIELDS)))


def change_row(subject: int | str, **fields: int) -> None:
    put_row(subject, **{**(quotas.live_row(subject) or {}), **fields})


def add_to_row(subject: int | str, **fields: int) -> None:
    live = quotas.live_row(subject)
    assert live is not None
    change_row(subject, **{name: live[name] + more for name, more in fields.items()})


def put_open(
    request: str, user: int | str, key: str = "", *, held: tuple[int, int], lease_s: float | None = 60, **meta
):
    """An open request as the ledger writes it; without `lease_s` nobody would ever settle it."""
    record = {"engine_id": "e", "started_ms": int(time.time() * 1000), **meta}
    client().hset(f"running:{PROCESS}", request, f"{user} {key} {held[0]} {held[1]} 0 0||{json.dumps(record)}")
    if lease_s is None:
        client().zrem("alive", PROCESS)
    else:
        client().zadd("alive", {PROCESS: int((time.time() + lease_s) * 1000)})


def open_requests() -> set[str]:
    return {request for name in client().keys("running:*") for request in client().hkeys(name)}
