"""The records of each engine against its own counters, which begin at 0 with its process."""

import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.db.models import Count, Sum

from engines import health
from engines.metrics import Metrics
from engines.models import Engine
from engines.states import State
from inference.audit.live import Live, take
from inference.endpoints import ENDPOINTS
from inference.models import UsageRecord

logger = logging.getLogger(__name__)

_WHOLE = (UsageRecord.Outcome.COMPLETED, UsageRecord.Outcome.REFUSED)


class Recorded(NamedTuple):
    """What an engine's counters must be, by the records and the portal's own probes."""

    prompt: int
    """At least."""
    least_generated: int
    most_generated: float


def check() -> Iterator[tuple[str, str, str]]:
    """Engines that work on something, or do not answer, are left for another time: a request that has just ended is
    in the metrics, and not in the records yet.

    Source of a second difference: vLLM 0.32 counts the prompt of a request with `n` above 1 once per choice in its
    metrics, and once in the usage that it answers. So its prompts may be above the records.
    """
    ready = list(Engine.objects.filter(state=State.READY).exclude(port=None))
    answers = {engine.pk: _counters(engine) for engine in ready}
    busy = _busy(take())
    for engine in ready:
        counted = answers[engine.pk]
        if counted is None or str(engine.pk) in busy:
            continue
        recorded = _recorded(engine)
        prompt, generated = counted.prompt_tokens, counted.generated_tokens
        if prompt < recorded.prompt:
            yield "engines", f"{engine.name} prompt", _differ(recorded.prompt, math.inf, prompt)
        if not recorded.least_generated <= generated <= recorded.most_generated:
            text = _differ(recorded.least_generated, recorded.most_generated, generated)
            yield "engines", f"{engine.name} generated", text


def _recorded(engine: Engine) -> Recorded:
    """A request that was cut off (a client left, a process died) has cost the engine no less than it told (`exact`),
    and no more than such a request can."""
    prompt, least = engine.probe_prompt_tokens, engine.probe_generated_tokens
    most: float = least
    own = UsageRecord.objects.filter(engine=engine)
    if engine.asked_at is not None:  # its counters are those of this generation
        own = own.filter(started_at__gte=engine.asked_at)
    records = own.order_by().values("path", "exact", "outcome")
    sums = {name: Sum(f"{name}_tokens") for name in ("prompt", "generated", "reserved")}
    for row in records.annotate(requests=Count("pk"), known=Count("reserved_tokens"), **sums):
        if row["exact"]:
            prompt += row["prompt"]
            least += row["generated"]
        whole = row["exact"] and row["outcome"] in _WHOLE
        most += row["generated"] if whole else _most_generated(row, engine)
    return Recorded(prompt, least, most)


def _most_generated(row: dict[str, Any], engine: Engine) -> float:
    """By the requests that a row sums up. One to `/v1/completions` may hold any number of prompts, but it never
    reserves in slices, so the engine was asked for no more than was reserved. Infinite where nobody knows."""
    endpoint = ENDPOINTS.get(row["path"])
    if endpoint is not None and not endpoint.generates:
        return 0
    choices = endpoint and endpoint.most_choices
    if not choices:
        return row["reserved"] if endpoint and row["known"] == row["requests"] else math.inf
    return row["requests"] * choices * (engine.served_max_model_len or engine.max_model_len or math.inf)


def _busy(live: Live) -> set[str]:
    return {request.engine_id for request in live.open.values()} | {record.engine_id for record in live.outbox}


def _differ(least: int, most: float, counted: int) -> str:
    recorded = f"{least}" if least == most else f"at least {least}" if most == math.inf else f"{least} to {most:.0f}"
    return f"{recorded} tokens recorded (probes included), the engine counted {counted}"


def _counters(engine: Engine) -> Metrics | None:
    """None where it works on something, or does not tell."""
    told = health.told(engine.host, engine.port)
    if told is None:
        logger.warning("the metrics of %s cannot be read", engine.name)
        return None
    return None if told.running or told.waiting else told
