"""How many bytes a model's weights take once vLLM has loaded them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engines.fit.shape import Shape

ONLINE = {"fp8": 1.0, "bitsandbytes": 0.5625}
"""Quantizations that vLLM makes by itself while it loads, and bytes of a weight afterwards; 4-bit NF4 with a scale for
each 64 weights is 4.5 bits. Embeddings stay as they are."""
_SIZES = {"F64": 8.0, "F32": 4.0, "F16": 2.0, "BF16": 2.0}


@dataclass(frozen=True)
class Weights:
    """`stored_bytes`: the files' size. `parameters`: their number by safetensors' name of the type, {} where nobody
    knows."""

    stored_bytes: int
    parameters: Mapping[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int | None:
        """None where nobody knows, or where several weights are packed into one stored number."""
        if not self.parameters or set(self.parameters) & {"I32", "U8", "I64"}:
            return None
        return sum(self.parameters.values())


def loaded_bytes(weights: Weights, shape: Shape, quantization: str = "", dtype: str = "auto") -> int:
    """On all GPUs together. vLLM loads what is stored in 32 bits with 16, unless `--dtype float32` says otherwise.

    `quantization`: what was asked for; without an effect where the files bring their own.
    """
    total = float(weights.stored_bytes)
    if not shape.quantization:
        total = _in_dtype(weights, dtype)
        if quantization in ONLINE:
            total = _quantized(total, shape, ONLINE[quantization])
    return int(total)


def _in_dtype(weights: Weights, dtype: str) -> float:
    target = 4.0 if dtype in ("float32", "float") else 2.0
    floats = {name: number for name, number in weights.parameters.items() if name in _SIZES}
    stored = sum(_SIZES[name] * number for name, number in floats.items())
    if not floats or stored > weights.stored_bytes * 1.1:
        return float(weights.stored_bytes)
    return max(weights.stored_bytes - stored, 0.0) + target * sum(floats.values())


def _quantized(total: float, shape: Shape, bytes_each: float) -> float:
    embeddings = 2.0 * shape.vocab_size * shape.hidden_size * (1 if shape.tied_embeddings else 2)
    embeddings = min(embeddings, total)
    return embeddings + (total - embeddings) * bytes_each / 2
