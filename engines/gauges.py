"""How busy an engine is, for those who look at it: noted at each look of the reconciler, forgotten soon after.

It lives in Redis and not in the engine's row: a number that changes every two seconds is no history. Only the most that
an engine was seen to generate is kept in its row. Where Redis is away nobody is told, and nothing else depends on it.
"""

import json
import logging
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import redis
from django.db.models import Q

from engines.metrics import Metrics
from engines.models import Engine
from engines.states import State
from vllm_portal.redis_client import client

logger = logging.getLogger(__name__)

KEPT_S = 30
"""An engine that has told nothing for longer than that tells nothing."""
AT_ONCE = 40
"""Engines that are asked in one round: an answer is some 60 KB of text, and a round is to be short."""
ROUND_S = 2.0
SHORTEST_S = 0.5
"""Two looks that lie closer together make no rate."""
PEAK_STEP = 1.05


@dataclass(frozen=True)
class Gauges:
    """Rates are tokens a second between the last two looks; None at the first one."""

    at: float
    running: int
    waiting: int
    kv_cache_use: float | None
    prompt_tokens: int
    generated_tokens: int
    prompt_tokens_per_s: float | None = None
    generated_tokens_per_s: float | None = None


def due(engine: Engine, ready: int, at: float) -> bool:
    """Whether it is this one's round, of so many that are ready. All where there are few; of many each has its turn."""
    rounds = -(-ready // AT_ONCE)
    return rounds <= 1 or (int(at / ROUND_S) + engine.pk.int) % rounds == 0


def note(engine: Engine, told: Metrics, at: float) -> None:
    """`at`: seconds since the epoch. Asks the database nothing unless the engine was faster than ever."""
    key = _key(engine.pk, engine.generation)
    try:
        before = _read(client().get(key))
        if before is not None and at - before.at < SHORTEST_S:
            return
        now = since(before, told, at)
        client().set(key, json.dumps(asdict(now)), ex=KEPT_S)
    except redis.RedisError as error:
        logger.warning("how busy %s is cannot be noted: %s", engine.name, error)
        return
    _keep_peak(engine, now.generated_tokens_per_s or 0.0)


def _keep_peak(engine: Engine, tokens_per_s: float) -> None:
    """Unlike the rest this outlives the engine: recipes tell it. Small steps are not worth a write each."""
    if tokens_per_s > PEAK_STEP * (engine.peak_tokens_per_s or 0.0):
        lower = Q(peak_tokens_per_s=None) | Q(peak_tokens_per_s__lt=tokens_per_s)
        Engine.objects.filter(lower, pk=engine.pk).update(peak_tokens_per_s=tokens_per_s)
        engine.peak_tokens_per_s = tokens_per_s


def since(before: Gauges | None, told: Metrics, at: float) -> Gauges:
    """What was told now, with the rates since `before`."""
    rates: tuple[float | None, float | None] = (None, None)
    if before is not None and at > before.at:
        grown = (told.prompt_tokens - before.prompt_tokens, told.generated_tokens - before.generated_tokens)
        if min(grown) >= 0:  # counters that went back are of another process
            rates = (round(grown[0] / (at - before.at), 1), round(grown[1] / (at - before.at), 1))
    use = None if told.kv_cache_use is None else round(told.kv_cache_use, 3)
    counted = (told.prompt_tokens, told.generated_tokens)
    return Gauges(at, told.running, told.waiting, use, *counted, *rates)


def of(engines: Iterable[Engine]) -> dict[uuid.UUID, Gauges]:
    """Of those that are READY and told something lately. One call to Redis, none where none is ready."""
    ready = [engine for engine in engines if engine.state == State.READY]
    if not ready:
        return {}
    try:
        values = client().mget([_key(engine.pk, engine.generation) for engine in ready])
    except redis.RedisError as error:
        logger.warning("how busy the engines are cannot be read: %s", error)
        return {}
    read = {engine.pk: _read(value) for engine, value in zip(ready, values, strict=True)}
    return {pk: gauges for pk, gauges in read.items() if gauges is not None}


def _key(pk: uuid.UUID, generation: int) -> str:
    return f"engine-gauges:{pk.hex}:{generation}"


def _read(value: str | None) -> Gauges | None:
    try:
        return Gauges(**json.loads(value)) if value else None
    except (ValueError, TypeError):  # an older version's
        return None
