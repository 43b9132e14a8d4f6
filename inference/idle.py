"""Which engines are idle, and what follows from it: they go to sleep or end, by their own terms or because others wait.

None is idle that has a request under way or waiting: the live ledger knows each one from before it is let through
until it is settled. It is read before the database, so that a request that ends in between is seen in one of the two.
What comes after that look and before the engine has left the routes is still answered: see `engines.ending`. One that
has been put to vLLM's sleep and has a request all the same is woken: vLLM would leave it unanswered.
"""

import logging
from datetime import datetime, timedelta

from engines import reclaiming, sleeping, terms
from engines.models import Engine
from inference.models import UsageRecord
from inference.outbox import OUTBOX
from vllm_portal.redis_client import client

logger = logging.getLogger(__name__)

_BUSY = """
local found = {}
for _, key in ipairs(redis.call('KEYS', 'running:*')) do
  for _, text in ipairs(redis.call('HVALS', key)) do
    found[cjson.decode(string.match(text, '^[^|]*|[^|]*|(.*)$')).engine_id] = true
  end
end
for json in string.gmatch(table.concat(redis.call('LRANGE', KEYS[1], 0, -1), '\\n'), '[^\\n]+') do
  found[cjson.decode(json).engine_id] = true
end
local ids = {}
for id in pairs(found) do ids[#ids + 1] = id end
return ids
"""


def look(now: datetime) -> None:
    """Notes when each engine was last used, and puts to rest those whose time has come. Raises redis.RedisError."""
    busy = _busy()
    ready = list(Engine.objects.serving())
    asleep = list(Engine.objects.sleeping())
    _note(ready, busy, now)
    for engine in asleep:
        if str(engine.pk) in busy:
            sleeping.rouse(engine, now, "a request that came at the last moment")
    due = [engine for engine in [*ready, *asleep] if _is_over(terms.idle_stop_at(engine), now)]
    tired = [engine for engine in ready if _is_over(terms.sleep_at(engine), now)]
    give_way = reclaiming.chosen([*ready, *asleep], now)
    if not due and not tired and not give_way:
        return
    busy = _busy()
    for engine in due:
        if str(engine.pk) not in busy:
            minutes = int((now - engine.used_at).total_seconds() // 60)
            cause = f"It had no request for {minutes} minutes."
            terms.rest(
                engine, now, terms.IDLE, cause, "Start it again when you need it; idle_minutes says how long it stays."
            )
    for engine in give_way:
        if str(engine.pk) not in busy:
            cause = "It was idle, and somebody waited for its GPUs."
            terms.rest(engine, now, terms.RECLAIMED, cause, "Start it again; keep_until keeps one that is to stay.")
    for engine in tired:
        if str(engine.pk) not in busy:
            sleeping.put_to_sleep(engine, now, f"the portal ({terms.IDLE})")


def _is_over(at: datetime | None, now: datetime) -> bool:
    return at is not None and at <= now


def _busy() -> set[str]:
    """Ids of the engines that have requests which are not in the database yet."""
    return set(client().eval(_BUSY, 1, OUTBOX))


def _note(ready: list[Engine], busy: set[str], now: datetime) -> None:
    changed = []
    for engine in ready:
        used_at = now if str(engine.pk) in busy else _last_use(engine)
        if used_at != engine.used_at:
            engine.used_at = used_at
            changed.append(engine)
    Engine.objects.bulk_update(changed, ["used_at"])


def _last_use(engine: Engine) -> datetime:
    """The latest that is known: what began last need not have ended last, but while another went on it was seen."""
    records = UsageRecord.objects.filter(engine=engine).order_by("-started_at")
    last = records.values_list("started_at", "duration_ms").first()
    ended = last and last[0] + timedelta(milliseconds=last[1])
    return max(filter(None, (engine.state_since, engine.used_at, ended)))
