"""The live ledger as it is in one moment."""

import json
from collections import defaultdict
from typing import NamedTuple

from accounts import quotas
from inference.outbox import Settled, records_of
from vllm_portal.redis_client import client

_READ = """
local quotas, open = {}, {}
for _, key in ipairs(redis.call('KEYS', 'counters:*')) do
  local text = redis.call('GET', key)
  local row = {struct.unpack(ARGV[1], text .. string.sub(ARGV[2], #text + 1))}
  row[#row] = nil -- where it stopped to read
  quotas[#quotas + 1] = {key, row}
end
for _, key in ipairs(redis.call('KEYS', 'running:*')) do open[#open + 1] = {key, redis.call('HGETALL', key)} end
local time = redis.call('TIME')
return {quotas, open, redis.call('ZRANGE', 'alive', 0, -1, 'WITHSCORES'), redis.call('LRANGE', 'outbox', 0, -1),
  time[1] * 1000}
"""


class Open(NamedTuple):
    """A request that is under way. `at_once`: the subjects whose number of requests at once it counts in."""

    process: str
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
    """Subjects are "7" for a user and "k7" for an API key. `leases`: process -> when it is taken
    for dead, in ms since the epoch. A subject without any limit has no numbers here."""

    quotas: dict[str, Quota]
    open: dict[str, Open]
    leases: dict[str, int]
    outbox: list[Settled]
    now_ms: int

    def on_the_way(self) -> dict[str, tuple[int, int]]:
        """Tokens of ended requests that are not in the database yet, by subject. A request counts once."""
        totals: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for record in {record.request_id: record for record in reversed(self.outbox)}.values():
            for subject in subjects_of(record):
                prompt, generated = totals[subject]
                totals[subject] = (prompt + record.prompt_tokens, generated + record.generated_tokens)
        return totals


def subjects_of(record: Settled) -> list[str]:
    """Whose numbers a record of the outbox adds to."""
    key_id = record.api_key_id
    return [str(record.user_id), *([quotas.of_key(key_id)] if key_id else [])]


def take() -> Live:
    """Raises redis.RedisError."""
    rows, open_rows, leases, outbox, now_ms = client().eval(_READ, 0, quotas.ROW.format, quotas.UNLIMITED)
    quota_rows = {_name(key): dict(zip(quotas.FIELDS, values, strict=True)) for key, values in rows}
    return Live(
        quotas={name: _quota(row) for name, row in quota_rows.items() if not quotas.is_unlimited(row)},
        open={
            request: _open(_name(key), text)
            for key, values in open_rows
            for request, text in zip(values[::2], values[1::2], strict=True)
        },
        leases={process: int(float(end)) for process, end in zip(leases[::2], leases[1::2], strict=True)},
        outbox=records_of(outbox),
        now_ms=now_ms,
    )


def _name(key: str) -> str:
    return key.partition(":")[2]


def _quota(row: dict[str, int]) -> Quota:
    used, reserved, limits = ((row[f"p{kind}"], row[f"g{kind}"]) for kind in "url")
    return Quota(used, reserved, limits, row["n"] if row["so"] >= 0 else None)


def _open(process: str, text: str) -> Open:
    """As `ledger.lua` writes it."""
    held, holds, meta = text.split("|", 2)
    user, key, prompt, generated, _, _ = held.split(" ")
    subjects = [subject for subject in (user, key) if subject]
    at_once = [part.removeprefix("n:") for part in holds.split() if part.startswith("n:")]
    record = json.loads(meta)
    return Open(process, subjects, int(prompt), int(generated), at_once, record["engine_id"], record["started_ms"])
