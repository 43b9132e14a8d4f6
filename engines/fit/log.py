"""What vLLM measured while it came up, read from its log. Pure.

The lines of 0.32 (`v1/worker/gpu_model_runner.py`, `gpu_worker.py`, `cpu_worker.py`, `v1/core/kv_cache_utils.py`) and
of earlier ones, which wrote "Model loading took 14.99 GiB and …" and the concurrency on a line of its own:

    Model loading took 14.99 GiB memory and 3.141593 seconds
    Available KV cache memory: 52.69 GiB                        (may be negative: the start fails)
    Explicitly set (1.0/13.71) GiB for KV cache on node 0.      (CPU)
    GPU KV cache size: 431,568 tokens, Maximum concurrency for 8,192 tokens per request: 52.68x
"""

import re
from dataclasses import dataclass

from engines.fit.flags import GIB

_WEIGHTS = re.compile(r"Model loading took (\d{1,9}(?:\.\d{1,9})?) Gi?B\b")
_AVAILABLE = re.compile(r"Available KV cache memory: (-?\d{1,9}(?:\.\d{1,9})?) GiB")
_SET = re.compile(r"(?:Explicitly|Auto) set \((\d{1,9}(?:\.\d{1,9})?)/[\d.]+\)? GiB\)? for KV cache")
_TOKENS = re.compile(r"KV cache size: (\d[\d,]{0,20}) tokens")
_CONCURRENCY = re.compile(r"Maximum concurrency for (\d[\d,]{0,20}) tokens per request: (\d{1,9}(?:\.\d{1,9})?)x")


@dataclass(frozen=True)
class Measured:
    """Bytes are of one GPU (of several the one with the least room). None: the log does not say (yet).

    `concurrency`: how many requests of `max_model_len` tokens fit at once.
    """

    weights_bytes: int | None = None
    cache_bytes: int | None = None
    cache_tokens: int | None = None
    max_model_len: int | None = None
    concurrency: float | None = None


def read_log(log: str) -> Measured | None:
    """None: nothing was measured."""
    concurrency = _last(_CONCURRENCY, log)
    tokens = _last(_TOKENS, log)
    cache = [float(found) for found in _AVAILABLE.findall(log)] or [float(found) for found in _SET.findall(log)]
    weights = [float(found) for found in _WEIGHTS.findall(log)]
    measured = Measured(
        weights_bytes=int(max(weights) * GIB) if weights else None,
        cache_bytes=int(min(cache) * GIB) if cache else None,
        cache_tokens=_whole(tokens[1]) if tokens else None,
        max_model_len=_whole(concurrency[1]) if concurrency else None,
        concurrency=float(concurrency[2]) if concurrency else None,
    )
    return None if measured == Measured() else measured


def _last(pattern: re.Pattern[str], log: str) -> re.Match[str] | None:
    found = list(pattern.finditer(log))
    return found[-1] if found else None


def _whole(text: str) -> int | None:
    """None: no number of tokens is that large."""
    number = int(text.replace(",", ""))
    return number if number < 2**31 else None
