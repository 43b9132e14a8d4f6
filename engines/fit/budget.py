"""What an engine's memory is spent on, and what is left for the KV cache. Pure.

vLLM takes `gpu_memory_utilization` of a GPU's whole memory; what weights and overhead leave of it is the KV cache. What
was measured at an earlier start goes before the estimate: weights and KV cache of a start on this kind of GPU, the
weights alone of one on another kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engines.fit import overhead
from engines.fit.flags import GIB, MemoryFlags, batch_defaults
from engines.fit.kv_cache import CacheSettings, needed_bytes
from engines.fit.log import Measured
from engines.fit.lora import Lora, buffer_bytes
from engines.fit.overhead import Batch
from engines.fit.shape import Shape
from engines.fit.weights import Weights, loaded_bytes

MEASURED, ESTIMATED = "measured", "estimated"


@dataclass(frozen=True)
class Place:
    """GPUs of one kind, or a machine's CPU (`device` is `cpu`, `memory_bytes` the machine's, `count` its slots)."""

    device: str
    name: str
    memory_bytes: int
    count: int
    free: int
    """Which no engine holds."""


@dataclass(frozen=True)
class Start:
    """A start that was measured, and what it was. `lora`: its adapters, which are in all that was measured then."""

    measured: Measured
    tensor_parallel_size: int
    quantization: str
    kv_cache_dtype: str
    utilization: float
    device: str
    gpu_name: str
    gpu_memory_bytes: int
    lora: Lora | None = None


@dataclass(frozen=True)
class Model:
    """`starts`: those of just this model, revision, image and flags. `weights` None: nobody knows."""

    shape: Shape
    weights: Weights | None
    starts: Sequence[Start] = ()


@dataclass(frozen=True)
class Wish:
    """What is asked for; `max_model_len` None: the model's own."""

    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    quantization: str = ""
    kv_cache_dtype: str = "auto"
    gpu_memory_utilization: float | None = None
    lora: Lora | None = None


@dataclass(frozen=True)
class Host:
    """What the operator decides."""

    flags: MemoryFlags = field(default_factory=MemoryFlags)
    cpu_kv_cache_bytes: int = GIB


@dataclass(frozen=True)
class Budget:
    """Bytes of each GPU; of a CPU, of each of the engine's workers.

    `cache` None: nobody knows the weights, or the GPU's memory. `short`: how many bytes are missing for what vLLM takes
    whatever there is, which is the case where the KV cache has a fixed size. `factor`: by how much a start needed more
    KV cache for a request than is computed. `adapters`: room for them; 0 where it is within weights that were measured.
    """

    weights: int | None
    overhead: int
    cache: int | None
    basis: str
    factor: float = 1.0
    short: int = 0
    adapters: int = 0


def share(wish: Wish, host: Host) -> float:
    """Of a GPU's memory what vLLM may use."""
    return wish.gpu_memory_utilization or host.flags.utilization


def value_bytes(model: Model, wish: Wish, flags: MemoryFlags) -> int:
    """Of one number in the KV cache."""
    dtype = cache_dtype(wish, flags)
    if dtype.startswith(("fp8", "int8")) or (dtype == "auto" and model.shape.fp8_kv_cache):
        return 1
    return 4 if dtype == "auto" and flags.dtype in ("float32", "float") else 2


def cache_dtype(wish: Wish, flags: MemoryFlags) -> str:
    return wish.kv_cache_dtype if wish.kv_cache_dtype != "auto" else flags.kv_cache_dtype


def settings(model: Model, wish: Wish, place: Place, host: Host) -> CacheSettings:
    return CacheSettings(
        value_bytes(model, wish, host.flags), wish.tensor_parallel_size, batch(wish, place, host).tokens
    )


def batch(wish: Wish, place: Place, host: Host) -> Batch:
    tokens, requests = batch_defaults(place.memory_bytes, place.name, place.device, wish.tensor_parallel_size)
    return Batch(host.flags.batched_tokens or tokens, host.flags.sequences or requests)


def budget(model: Model, wish: Wish, place: Place, host: Host) -> Budget:
    alike = [start for start in model.starts if _is_alike(start, wish, place)]
    alike = [start for start in alike if start.lora == wish.lora] or [start for start in alike if not start.lora]
    weights = next((start.measured.weights_bytes for start in alike if start.measured.weights_bytes), None)
    counted = weights is not None and alike[0].lora is not None
    room = 0 if counted else _for_adapters(model, wish, host)
    if weights is None and model.weights is not None:
        whole = loaded_bytes(model.weights, model.shape, wish.quantization, host.flags.dtype)
        weights = whole // wish.tensor_parallel_size
    here = next((start for start in alike if _is_here(start, place)), None)
    factor = _factor(model, wish, place, host, here)
    if place.device == "cpu":
        return _on_cpu(model, wish, place, host, weights, factor, room)
    if here is not None and here.measured.cache_bytes is not None and not host.flags.kv_cache_memory_bytes:
        more = int((share(wish, host) - here.utilization) * place.memory_bytes)
        cache = here.measured.cache_bytes + more - room
        usable = int(place.memory_bytes * share(wish, host))
        rest = max(usable - cache - (weights or 0) - room, 0)
        return Budget(weights, rest, cache, ESTIMATED if room else MEASURED, factor, adapters=room)
    return _on_gpu(model, wish, place, host, weights, factor, room)


def _for_adapters(model: Model, wish: Wish, host: Host) -> int:
    each = 4 if host.flags.dtype in ("float32", "float") else 2
    return buffer_bytes(model.shape, wish.lora, wish.tensor_parallel_size, each)


def _on_gpu(
    model: Model, wish: Wish, place: Place, host: Host, weights: int | None, factor: float, room: int
) -> Budget:
    extra = overhead.estimate(
        model.shape, batch(wish, place, host), wish.tensor_parallel_size, graphs=not host.flags.eager
    )
    if fixed := host.flags.kv_cache_memory_bytes:
        short = max((weights or 0) + extra + room + fixed - place.memory_bytes, 0) if place.memory_bytes else 0
        return Budget(weights, extra, fixed, ESTIMATED, factor, short, room)
    if weights is None or not place.memory_bytes:  # GPUs that share the machine's memory tell none of their own
        return Budget(weights, extra, None, ESTIMATED, factor, adapters=room)
    usable = int(place.memory_bytes * share(wish, host))
    return Budget(weights, extra, usable - weights - extra - room, ESTIMATED, factor, adapters=room)


def _on_cpu(
    model: Model, wish: Wish, place: Place, host: Host, weights: int | None, factor: float, room: int
) -> Budget:
    """Each worker takes the KV cache that the portal sets (VLLM_CPU_KVCACHE_SPACE), whatever the machine has."""
    extra = overhead.estimate_cpu(model.shape, batch(wish, place, host), wish.tensor_parallel_size)
    each = (weights or 0) + extra + room + host.cpu_kv_cache_bytes
    short = max(each * wish.tensor_parallel_size - place.memory_bytes, 0) if place.memory_bytes else 0
    basis = ESTIMATED if factor == 1.0 else MEASURED
    return Budget(weights, extra, host.cpu_kv_cache_bytes, basis, factor, short, room)


def _is_alike(start: Start, wish: Wish, place: Place) -> bool:
    """It loaded the same weights in the same way."""
    return (start.tensor_parallel_size, start.quantization, start.device) == (
        wish.tensor_parallel_size, wish.quantization, place.device,
    )  # fmt: skip


def _is_here(start: Start, place: Place) -> bool:
    """It ran on GPUs of this kind."""
    return place.device == "cpu" or (start.gpu_name, start.gpu_memory_bytes) == (place.name, place.memory_bytes)


def _factor(model: Model, wish: Wish, place: Place, host: Host, start: Start | None) -> float:
    measured = start.measured if start else Measured()
    if start is None or not (measured.cache_bytes and measured.concurrency and measured.max_model_len):
        return 1.0
    if start.kv_cache_dtype != cache_dtype(wish, host.flags) or measured.cache_bytes <= 0:
        return 1.0
    computed = needed_bytes(model.shape, measured.max_model_len, settings(model, wish, place, host))
    return measured.cache_bytes / measured.concurrency / computed if computed else 1.0
