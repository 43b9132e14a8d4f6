"""Somebody asks whether a model fits: check the question, read the model, judge each kind of place.

The hub is asked as before a start, under the same settings (`hf_check`, `hf_offline`, `hf_check_timeout_s`), so that
nobody learns of a model here whom the hub would not tell. Without it, the cache of this machine answers.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from engines import hub, preflight, room
from engines.adapters import LEAST_RANK
from engines.fit import budget, measures, ranks, source
from engines.fit.budget import Host, Model, Place, Wish, batch, settings
from engines.fit.flags import GIB, read_flags
from engines.fit.kv_cache import bytes_per_distant_token, bytes_per_token
from engines.fit.lora import Lora
from engines.fit.shape import Shape, ShapeUnknown, read_shape
from engines.fit.source import Description, Unreadable
from engines.fit.verdict import Verdict, asked_length, judge, parallel_sizes
from engines.fit.weights import ONLINE, loaded_bytes
from engines.launchers.container_config import cache_folder
from engines.models import Gpu
from engines.placement import kinds, slices_for
from engines.preflight import Checked, Order
from engines.waiting import release_database
from vllm_portal.config import get_config
from vllm_portal.errors import FieldError, Unavailable

_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}


@dataclass(frozen=True)
class Answer:
    """Bytes and tokens. `weights_bytes` and `parameters` are the whole model's, None where nobody knows;
    `kv_cache_bytes_per_token` is of one GPU at the asked tensor-parallel size, `..._distant_token` once all windows are
    full. `fits` is True where one place says so, None where none can say."""

    model: str
    commit: str
    max_model_len: int
    model_max_len: int | None
    tensor_parallel_sizes: list[int]
    parameters: int | None
    weights_bytes: int | None
    kv_cache_bytes_per_token: int
    kv_cache_bytes_per_distant_token: int
    fits: bool | None
    fits_now: bool | None
    verdicts: list[Verdict]
    notes: list[str]


def ask(order: Order, kv_cache_dtype: str = "auto", given: Sequence[Place] = ()) -> Answer:
    """`given`: places to judge instead of those that are here. Takes up to hf_check_timeout_s, with adapters twice
    that, without a database connection meanwhile. Raises FieldError, and Unavailable where the hub does not answer."""
    checked = preflight.check_form(order)
    description = _describe(checked, order.hf_token)
    try:
        shape = read_shape(description.config)
    except ShapeUnknown as error:
        raise FieldError("Model", str(error)) from None
    config = get_config()
    flags = read_flags(config.engine_extra_args)
    host = Host(flags, config.cpu_kv_cache_gib * GIB)
    revisions = {checked.revision, description.commit}
    lora, untold = ranks.of(checked.adapters, order.hf_token)
    starts = measures.starts_of(checked.model, revisions, checked.image, flags, lora)
    model = Model(shape, description.weights, starts)
    wish = Wish(
        order.max_model_len,
        order.tensor_parallel_size,
        order.quantization,
        kv_cache_dtype,
        order.gpu_memory_utilization,
        lora,
    )
    places = list(given) or _places(checked, order.gpu_memory_utilization)
    verdicts = [judge(model, wish, place, host) for place in places]
    how = settings(model, wish, places[0] if places else Place(checked.device, "", 0, 0, 0), host)
    return Answer(
        model=checked.model,
        commit=description.commit,
        max_model_len=asked_length(shape, wish),
        model_max_len=shape.max_model_len,
        tensor_parallel_sizes=parallel_sizes(shape, 64),
        parameters=description.weights.count if description.weights else None,
        weights_bytes=(
            loaded_bytes(description.weights, shape, order.quantization, flags.dtype) if description.weights else None
        ),
        kv_cache_bytes_per_token=bytes_per_token(shape, how),
        kv_cache_bytes_per_distant_token=bytes_per_distant_token(shape, how),
        fits=_any([verdict.fits for verdict in verdicts]),
        fits_now=_any([_now(verdict, order.tensor_parallel_size) for verdict in verdicts]),
        verdicts=verdicts,
        notes=[*_notes(shape, description, wish, places, host), *_of_adapters(verdicts, lora, untold)],
    )


def _describe(checked: Checked, token: str) -> Description:
    name, config = checked.model, get_config()
    try:
        if name.startswith("/"):
            return source.from_folder(source.Path(name))
        cache = cache_folder(config.hf_cache_dir)
        if config.hf_check and not config.hf_offline:
            release_database()
            try:
                found = hub.read(
                    "Model", hub.Wanted(name, checked.revision), token, config.hf_endpoint, config.hf_check_timeout_s
                )
            except Unavailable:
                if cache is None or (cached := source.from_cache(cache, name, checked.revision)) is None:
                    raise
                return cached
            return source.from_hub(found)
        if cache is not None and (cached := source.from_cache(cache, name, checked.revision)) is not None:
            return cached
    except Unreadable as error:
        raise FieldError("Model", str(error)) from None
    why = "hf_offline" if config.hf_offline else "hf_check is off"
    raise FieldError(
        "Model", f"It is not in this machine's cache, and the portal may not ask the Hugging Face hub ({why})."
    )


def _places(checked: Checked, share: float | None) -> list[Place]:
    """What is here: GPUs by kind, or the machine's memory."""
    if checked.device == "cpu":
        here = room.of(on_cpu=True)
        slots, free = (here.present, here.free) if here else (preflight.MOST_CPU_WORKERS, preflight.MOST_CPU_WORKERS)
        return [Place("cpu", "CPU", _machine_memory(), slots, free)]
    slices = slices_for(share)
    present = list(Gpu.objects.filter(present=True).prefetch_related("leases"))
    return [
        Place(checked.device, name, memory, len(gpus), sum(gpu.free_slices >= slices for gpu in gpus))
        for (name, memory), gpus in kinds(present).items()
    ]


def _machine_memory() -> int:
    """What an engine may use of it; 0: unknown."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 0
    limit = re.fullmatch(r"(\d{1,12})([bkmg]?)b?", (get_config().docker_memory or "").lower())
    if limit is None:
        return max(memory, 0)
    allowed = int(limit[1]) * _UNITS[limit[2]]
    return min(memory, allowed) if memory > 0 else allowed


def _now(verdict: Verdict, gpus: int) -> bool | None:
    return verdict.place.free >= gpus if verdict.fits else verdict.fits


def _any(answers: list[bool | None]) -> bool | None:
    if True in answers:
        return True
    return False if answers and None not in answers else None


def _notes(shape: Shape, description: Description, wish: Wish, places: list[Place], host: Host) -> list[str]:
    notes = list(shape.unknown)
    if shape.state_layers:
        notes.append(
            f"{shape.state_layers} of its layers keep a state for each request instead of a KV cache; that is not "
            "counted, so a request needs more than is said here."
        )
    if shape.layers and all(kind.window for kind in shape.layers):
        notes.append("All of its layers look back over a window only, so longer requests need no more.")
    if description.weights is None:
        notes.append("The size of its weights is not known.")
    if wish.quantization and not shape.quantization and wish.quantization not in ONLINE:
        notes.append(f"Its files are not quantized, and vLLM does not make {wish.quantization} by itself.")
    if any(place.device != "cpu" and not place.memory_bytes for place in places):
        notes.append("A GPU here does not tell its memory.")
    if not places:
        notes.append("No GPU is known here; name some in `gpus` to ask about them.")
    for place in places:
        if place.device != "cpu":
            size = batch(wish, place, host)
            notes.append(
                f"{place.name or 'GPU'}: vLLM uses {budget.share(wish, host):g} of its memory and takes up to "
                f"{size.tokens} tokens of {size.requests} requests at once."
            )
    return notes


def _of_adapters(verdicts: list[Verdict], lora: Lora | None, untold: list[str]) -> list[str]:
    if lora is None:
        return []
    notes = []
    most = max((verdict.adapters_bytes for verdict in verdicts), default=0)
    if most:
        many = "1 adapter" if lora.slots == 1 else f"{lora.slots} adapters"
        notes.append(f"{many}: about {most / GIB:.2f} GiB at rank {lora.rank}, estimated from the model's layers.")
    if untold:
        notes.append(f"The rank of {', '.join(untold)} is not known; {LEAST_RANK} is taken.")
    return notes
