"""The records of each engine against its own counters, which begin at 0 with its process."""

import logging
import re
from collections import Counter
from collections.abc import Iterator

import requests
from django.db.models import Sum

from engines.models import Engine
from engines.states import State
from inference.audit.live import Live, take
from inference.models import UsageRecord

logger = logging.getLogger(__name__)

TIMEOUT_S = 5
_WHOLE = (UsageRecord.Outcome.COMPLETED, UsageRecord.Outcome.REFUSED)
_METRIC = re.compile(
    r"^vllm:(prompt_tokens_total|generation_tokens_total|num_requests_(?:running|waiting))(?:\{[^}]*\})? (\S+)$",
    re.MULTILINE,
)


def check() -> Iterator[tuple[str, str, str]]:
    """Engines that work on something, or do not answer, are left for another time: a request that has just ended is
    in the metrics, and not in the records yet.

    An engine that was stopped in the middle (a client left, a process died) may have counted more than the portal saw:
    then, and only then, its counters may be above the records. Source of a second difference: vLLM 0.32 counts the
    prompt of a request with `n` above 1 once per choice in its metrics, and once in the usage that it answers.
    """
    ready = list(Engine.objects.filter(state=State.READY, generation=1).exclude(port=None))
    answers = {engine.pk: _counters(engine) for engine in ready}
    busy = _busy(take())
    for engine in ready:
        counted = answers[engine.pk]
        if counted is None or str(engine.pk) in busy:
            continue
        whole = UsageRecord.objects.filter(engine=engine)
        sums = whole.aggregate(prompt=Sum("prompt_tokens", default=0), generated=Sum("generated_tokens", default=0))
        cut = whole.exclude(exact=True, outcome__in=_WHOLE).exists()
        prompt = sums["prompt"] + engine.probe_prompt_tokens
        generated = sums["generated"] + engine.probe_generated_tokens
        if counted["prompt_tokens_total"] < prompt and not cut:
            yield "engines", f"{engine.name} prompt", _differ(prompt, counted["prompt_tokens_total"])
        if counted["generation_tokens_total"] != generated and not cut:
            yield "engines", f"{engine.name} generated", _differ(generated, counted["generation_tokens_total"])


def _busy(live: Live) -> set[str]:
    return {request.engine_id for request in live.open.values()} | {record["engine_id"] for record in live.outbox}


def _differ(recorded: int, counted: int) -> str:
    return f"{recorded} tokens recorded (probes included), the engine counted {counted}"


def _counters(engine: Engine) -> Counter[str] | None:
    """Its metrics, summed over their labels; None where it works on something, or does not tell."""
    try:
        answer = requests.get(f"http://{engine.host}:{engine.port}/metrics", timeout=TIMEOUT_S)
        answer.raise_for_status()
    except requests.RequestException as error:
        logger.warning("the metrics of %s cannot be read: %s", engine.name, error)
        return None
    totals = Counter[str]()
    for name, value in _METRIC.findall(answer.text):
        totals[name] += int(float(value))
    if totals["num_requests_running"] or totals["num_requests_waiting"] or "prompt_tokens_total" not in totals:
        return None
    return totals
