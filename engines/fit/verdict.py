"""Does it fit, and which one change would make it fit. Pure."""

from dataclasses import dataclass, replace

from engines.fit.budget import ESTIMATED, Budget, Host, Model, Place, Wish, batch, budget, settings, value_bytes
from engines.fit.flags import GIB
from engines.fit.kv_cache import longest_that_fits, needed_bytes
from engines.fit.shape import Shape
from engines.fit.weights import ONLINE
from engines.placement import SLICES

LONGEST = 2**27
"""For models whose file names no greatest length."""
MOST_GPUS = 1024


@dataclass(frozen=True)
class Change:
    """One change that makes it fit: the field of a start and its value (None for `model`: a smaller one, and for
    `adapters`: none), and a sentence."""

    field: str
    value: float | str | None
    text: str


@dataclass(frozen=True)
class Verdict:
    """`fits` None: it cannot be said. Bytes are of each GPU; of a CPU, of each of the engine's workers.

    `max_model_len`: the greatest for which one request fits. `requests_at_once`: of the asked length.
    """

    place: Place
    fits: bool | None
    basis: str
    weights_bytes: int | None
    overhead_bytes: int
    cache_bytes: int | None
    needed_bytes: int
    max_model_len: int
    requests_at_once: int
    adapters_bytes: int = 0
    problem: str = ""
    changes: tuple[Change, ...] = ()


def judge(model: Model, wish: Wish, place: Place, host: Host) -> Verdict:
    """The verdict, with changes where it does not fit."""
    verdict = _judge(model, wish, place, host)
    return replace(verdict, changes=_changes(model, wish, place, host, verdict)) if verdict.fits is False else verdict


def parallel_sizes(shape: Shape, most: int = MOST_GPUS) -> list[int]:
    """The tensor-parallel sizes up to `most` that vLLM takes: they divide the attention heads, and the KV heads are
    shared out or repeated evenly."""
    return [size for size in range(1, most + 1) if divides(shape, size)]


def divides(shape: Shape, size: int) -> bool:
    heads = shape.kv_heads
    return shape.attention_heads % size == 0 and (heads % size == 0 or size % heads == 0)


def asked_length(shape: Shape, wish: Wish) -> int:
    return wish.max_model_len or shape.default_max_model_len


def _judge(model: Model, wish: Wish, place: Place, host: Host) -> Verdict:
    shape, how = model.shape, settings(model, wish, place, host)
    length, spent = asked_length(shape, wish), budget(model, wish, place, host)
    needed = int(needed_bytes(shape, length, how) * spent.factor)
    longest, at_once = 0, 0
    if spent.cache is not None and spent.cache > 0 and not spent.short:
        longest = longest_that_fits(shape, spent.cache, shape.max_model_len or LONGEST, how, spent.factor)
        most = batch(wish, place, host).requests
        at_once = min(spent.cache // needed, most) if needed else most
    verdict = Verdict(
        place, None, spent.basis, spent.weights, spent.overhead, spent.cache, needed, longest, at_once, spent.adapters
    )
    if problem := _problem(verdict, spent, shape, wish):
        return replace(verdict, fits=False, problem=problem)
    unknown = spent.cache is None or (spent.weights is None and spent.basis == ESTIMATED)
    return replace(verdict, fits=None if unknown else True)


def _problem(verdict: Verdict, spent: Budget, shape: Shape, wish: Wish) -> str:
    place, size, length = verdict.place, wish.tensor_parallel_size, asked_length(shape, wish)
    if not divides(shape, size):
        fitting = ", ".join(str(each) for each in parallel_sizes(shape, max(place.count, 8)))
        return (
            f"{size} GPUs cannot share the model's {shape.attention_heads} attention heads and {shape.kv_heads} KV "
            f"heads; tensor_parallel_size can be {fitting}."
        )
    if size > place.count:
        there = "there is 1" if place.count == 1 else f"there are {place.count}"
        return f"It asks for {size} GPUs, and {there} of this kind."
    if shape.max_model_len and length > shape.max_model_len:
        return f"max_model_len {length} is more than this model can take, which is {shape.max_model_len}."
    if verdict.cache_bytes is None:
        return ""
    if spent.short:
        return (
            f"Weights, overhead{_adapters(verdict)} and a KV cache of {_gib(verdict.cache_bytes)} are "
            f"{_gib(spent.short)} more than there is."
        )
    if verdict.cache_bytes <= 0:
        return (
            f"Weights ({_gib(verdict.weights_bytes or 0)}){_adapters(verdict)} and overhead "
            f"({_gib(verdict.overhead_bytes)}) are more than "
            f"vLLM may use of {'each GPU' if size > 1 else 'the GPU'}; nothing is left for requests."
        )
    if verdict.needed_bytes > verdict.cache_bytes:
        return (
            f"One request of {length} tokens needs {_gib(verdict.needed_bytes)} of KV cache, and "
            f"{_gib(verdict.cache_bytes)} are left; that suffices for {verdict.max_model_len} tokens."
        )
    return ""


def _changes(model: Model, wish: Wish, place: Place, host: Host, verdict: Verdict) -> tuple[Change, ...]:
    """Each alone makes it fit. A smaller model is named where nothing else helps."""
    shape = model.shape

    def helps(**other: object) -> bool:
        return _judge(model, replace(wish, **other), place, host).fits is True

    changes = []
    length = verdict.max_model_len
    if length and helps(max_model_len=length):
        changes.append(Change("max_model_len", length, f"A max_model_len of {length} or less."))
    asked = wish.tensor_parallel_size
    sizes = sorted(parallel_sizes(shape, place.count), key=lambda size: (abs(size - asked), size))
    size = next((size for size in sizes if size != asked and helps(tensor_parallel_size=size)), None)
    if size:
        text = f"{size} GPU{'s' * (size > 1)} (tensor_parallel_size {size}) instead of {asked}."
        changes.append(Change("tensor_parallel_size", size, text))
    if wish.lora is not None and helps(lora=None):
        changes.append(Change("adapters", None, "None of its adapters."))
    if place.device == "cpu":
        changes += _more_cpu_cache(model, wish, place, host, verdict)
    else:
        changes += _larger_share(model, wish, place, host)
        if value_bytes(model, wish, host.flags) > 1 and helps(kv_cache_dtype="fp8"):
            text = "A KV cache in 8 bits (an admin adds --kv-cache-dtype=fp8 to engine_extra_args)."
            changes.append(Change("kv_cache_dtype", "fp8", text))
        changes += [
            Change("quantization", name, f"quantization {name}, made while loading; or a model that is quantized.")
            for name in ONLINE
            if not shape.quantization and not wish.quantization and helps(quantization=name)
        ]
    return tuple(changes) or _smaller_model(verdict, wish)


def _larger_share(model: Model, wish: Wish, place: Place, host: Host) -> list[Change]:
    """In steps of the slices that GPUs are shared by."""
    if wish.gpu_memory_utilization is None:
        return []
    for number in range(1, SLICES):
        share = number / SLICES
        if share > wish.gpu_memory_utilization:
            other = replace(wish, gpu_memory_utilization=share)
            if _judge(model, other, place, host).fits is True:
                return [Change("gpu_memory_utilization", share, f"A gpu_memory_utilization of {share:g} or more.")]
    return []


def _more_cpu_cache(model: Model, wish: Wish, place: Place, host: Host, verdict: Verdict) -> list[Change]:
    wanted = -(-verdict.needed_bytes // GIB)
    if wanted * GIB <= host.cpu_kv_cache_bytes:
        return []
    if _judge(model, wish, place, replace(host, cpu_kv_cache_bytes=wanted * GIB)).fits is not True:
        return []
    return [Change("cpu_kv_cache_gib", wanted, f"An admin sets cpu_kv_cache_gib to {wanted}.")]


def _smaller_model(verdict: Verdict, wish: Wish) -> tuple[Change, ...]:
    if verdict.weights_bytes is None or verdict.cache_bytes is None:
        return ()
    room = (verdict.weights_bytes + verdict.cache_bytes - verdict.needed_bytes) * wish.tensor_parallel_size
    if verdict.place.device == "cpu" or not 0 < room < verdict.weights_bytes * wish.tensor_parallel_size:
        return (Change("model", None, "A smaller model."),)
    return (Change("model", None, f"A smaller model, with {_gib(room)} of weights or less."),)


def _adapters(verdict: Verdict) -> str:
    return f", adapters ({_gib(verdict.adapters_bytes)})" if verdict.adapters_bytes else ""


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
