"""What of `engine_extra_args` changes how much memory vLLM takes. Pure.

Defaults from vLLM 0.32: `config/cache.py` (gpu_memory_utilization), `engine/arg_utils.py` (`get_batch_defaults`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

GIB = 2**30
_SWITCHES = frozenset({"--enforce-eager"})
_VALUES = frozenset({
    "--cpu-offload-gb", "--device-memory-utilization", "--dtype", "--gpu-memory-utilization", "--kv-cache-dtype",
    "--kv-cache-memory-bytes", "--max-num-batched-tokens", "--max-num-seqs", "--pipeline-parallel-size", "--revision",
})  # fmt: skip
_SHORT = {"-pp": "--pipeline-parallel-size"}


@dataclass(frozen=True)
class MemoryFlags:
    """None: vLLM decides, by the size of the GPU."""

    utilization: float = 0.92
    """A share of the GPU's whole memory, whoever uses the rest."""
    kv_cache_dtype: str = "auto"
    kv_cache_memory_bytes: int | None = None
    batched_tokens: int | None = None
    sequences: int | None = None
    eager: bool = False
    dtype: str = "auto"
    revision: str = ""
    text: str = ""
    """All of them but utilization and revision, in order: two starts with the same text take the same memory."""


def read_flags(extra_args: Iterable[str]) -> MemoryFlags:
    """A flag whose value is none that vLLM takes is left out; vLLM will refuse it."""
    given = _pairs(extra_args)
    utilization = _real(given.pop("--device-memory-utilization", None))
    utilization = _real(given.pop("--gpu-memory-utilization", None)) or utilization
    return MemoryFlags(
        utilization=utilization if utilization and 0 < utilization <= 1 else MemoryFlags.utilization,
        kv_cache_dtype=given.get("--kv-cache-dtype") or "auto",
        kv_cache_memory_bytes=_whole(given.get("--kv-cache-memory-bytes")),
        batched_tokens=_whole(given.get("--max-num-batched-tokens")),
        sequences=_whole(given.get("--max-num-seqs")),
        eager="--enforce-eager" in given,
        dtype=given.get("--dtype") or "auto",
        revision=(given.pop("--revision", "") or "")[:100],
        text=" ".join(f"{name}={value}" if value else name for name, value in sorted(given.items()))[:300],
    )


def batch_defaults(memory_bytes: int, gpu_name: str, device: str, tensor_parallel_size: int) -> tuple[int, int]:
    """(max_num_batched_tokens, max_num_seqs) that vLLM's server takes on this kind of GPU."""
    if device == "cpu":
        return 2048 * tensor_parallel_size, 128 * tensor_parallel_size
    if memory_bytes >= 160 * GIB:
        return 16384, 1024
    if memory_bytes >= 70 * GIB and "a100" not in gpu_name.lower():
        return 8192, 1024
    return 2048, 256


def _pairs(extra_args: Iterable[str]) -> dict[str, str]:
    """Flag and value of those that matter; the last of several counts, as in vLLM."""
    found: dict[str, str] = {}
    waiting = ""
    for word in extra_args:
        name, equals, value = word.partition("=")
        name = _SHORT.get(name, name.replace("_", "-") if name.startswith("--") else name)
        if waiting and not name.startswith("--"):
            found[waiting] = word
        waiting = ""
        if name in _SWITCHES:
            found[name] = ""
        elif name == "--no-enforce-eager":
            found.pop("--enforce-eager", None)
        elif name in _VALUES:
            if equals:
                found[name] = value
            else:
                waiting = name
    return found


def _real(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) else None


_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


def _whole(text: str | None) -> int | None:
    """A number as vLLM writes it: 8192, 8k (thousand), 8K (1024)."""
    if not text:
        return None
    number = _real(text[:-1]) if text[-1] in _UNITS else _real(text)
    value = int(number * _UNITS.get(text[-1], 1)) if number is not None else 0
    return value if 0 < value < 2**62 else None
