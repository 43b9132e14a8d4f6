"""What vLLM tells of itself at /metrics, in the text format of Prometheus. Pure.

Source of the names: a running vLLM 0.32.
"""

import re
from collections import defaultdict
from dataclasses import dataclass

_SAMPLE = re.compile(
    rb"^vllm:(prompt_tokens_total|generation_tokens_total|num_requests_running|num_requests_waiting"
    rb"|kv_cache_usage_perc)(?:\{[^}\n]*\})? (\S+)$",
    re.MULTILINE,
)
_AWAKE = re.compile(rb'^vllm:engine_sleep_state\{[^}\n]*sleep_state="awake"[^}\n]*\} (\S+)$', re.MULTILINE)
_LARGEST = 2.0**53


@dataclass(frozen=True)
class Metrics:
    """An engine's counters since its process began and its gauges now; of several engine cores their sum."""

    prompt_tokens: int
    generated_tokens: int
    running: int
    waiting: int
    kv_cache_use: float | None
    """0 to 1, of several engine cores the mean; None where it is not told."""
    asleep: bool = False
    """It, or one of its cores, says so."""


def parse(text: bytes) -> Metrics | None:
    """None: it is not vLLM's, or not whole."""
    found: defaultdict[bytes, list[float]] = defaultdict(list)
    for name, written in _SAMPLE.findall(text):
        try:
            value = float(written)
        except ValueError:
            return None
        if not 0 <= value <= _LARGEST:  # NaN as well
            return None
        found[name].append(value)
    counted = [found.get(name) for name in (b"prompt_tokens_total", b"generation_tokens_total")]
    gauged = [found.get(name) for name in (b"num_requests_running", b"num_requests_waiting")]
    if None in counted or None in gauged:
        return None
    numbers = [int(sum(values or ())) for values in (*counted, *gauged)]
    use = found.get(b"kv_cache_usage_perc")
    asleep = b"0.0" in _AWAKE.findall(text)
    return Metrics(*numbers, kv_cache_use=min(1.0, sum(use) / len(use)) if use else None, asleep=asleep)
