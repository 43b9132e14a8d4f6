"""The live ledger as it is in one moment."""

import json
from collections import defaultdict
from typing import Any, NamedTuple

from accounts import quotas
from vllm_portal.redis_client import client

_READ = """
local function rows(pattern)
  local found = {}
  for _, key in ipairs(redis.call('KEYS', pattern)) do found[#found + 1] = {key, redis.call('HGETALL', key)} end
  return found
end
local time = redis.call('TIME')
return {rows('quota:*'), rows('open:*'), redis.call('ZRANGE', 'open', 0, -1, 'WITHSCORES'),
  redis.call('LRANGE', 'outbox', 0, -1), time[1] * 1000}
"""


class Open(NamedTuple):
    """A request that is under way. `at_once`: the subjects whose number of requests at once it counts in."""

    subjects: list[str]
    prompt: int
    generated: int
    at_once: list[str]
    engine_id: str
    started_ms: int


class Quota(NamedTuple):
    """A subject's row, as far as the audit asks. `at_once` is None where the number is not limited."""

    used: tuple[int, int]
    reserved: tuple[int, int]
    limits: tuple[int, int]
    at_once: int | None


class Live(NamedTuple):
    """Subjects are "7" for a user and "k7" for an API key. `leases`: request -> its end, in ms since the epoch."""

    quotas: dict[str, Quota]
    open: dict[str, Open]
    leases: dict[str, int]
    outbox: list[dict[str, Any]]
    now_ms: int

    def on_the_way(self) -> dict[str, tuple[int, int]]:
        """Tokens of ended requests that are not in the database yet, by subject. A request counts once."""
        totals: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for record in {record["request_id"]: record for record in reversed(self.outbox)}.values():
            for subject in subjects_of(record):
                prompt, generated = totals[subject]
                totals[subject] = (prompt + record["prompt_tokens"], generated + record["generated_tokens"])
        return totals


def subjects_of(record: dict[str, Any]) -> list[str]:
    """Whose numbers a record of the outbox adds to."""
    key_id = record.get("key_id")
    return [str(record["user_id"]), *([quotas.of_key(key_id)] if key_id else [])]


def take() -> Live:
    """Raises redis.RedisError."""
    rows, open_rows, leases, outbox, now_ms = client().eval(_READ, 0)
    return Live(
        quotas={_name(key): _quota(_fields(values)) for key, values in rows},
        open={_name(key): _open(_fields(values)) for key, values in open_rows},
        leases={request: int(float(end)) for request, end in zip(leases[::2], leases[1::2], strict=True)},
        outbox=[json.loads(line) for line in outbox],
        now_ms=now_ms,
    )


def _name(key: str) -> str:
    return key.partition(":")[2]


def _fields(values: list[str]) -> dict[str, str]:
    return dict(zip(values[::2], values[1::2], strict=True))


def _quota(row: dict[str, str]) -> Quota:
    used, reserved, limits = ((int(row[f"p{kind}"]), int(row[f"g{kind}"])) for kind in "url")
    return Quota(used, reserved, limits, int(row.get("n") or 0) if row.get("so") else None)


def _open(row: dict[str, str]) -> Open:
    meta = json.loads(row["m"])
    subjects = [subject for subject in (row["u"], row["k"]) if subject]
    at_once = row.get("a", "").split()
    return Open(subjects, int(row["p"]), int(row["g"]), at_once, meta["engine_id"], meta["started_ms"])
