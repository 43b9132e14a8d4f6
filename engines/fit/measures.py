"""What was measured at earlier starts: one row for each kind of start, which the latest start of that kind keeps."""

import hashlib
from collections.abc import Collection
from datetime import datetime

from engines import adapter_files
from engines.fit.budget import Start
from engines.fit.flags import MemoryFlags, read_flags
from engines.fit.log import Measured, read_log
from engines.fit.lora import Lora
from engines.models import Engine, StartMeasure
from vllm_portal.config import get_config

_MADE_UP = frozenset({"simulator"})
"""Launchers whose engines measure nothing."""


def record(engine: Engine, log: str, now: datetime) -> None:
    """Keeps what the log of a start says; to be called while the engine has its GPUs. A start that failed before it
    came to the KV cache does not replace one that did."""
    measured = None if engine.launcher in _MADE_UP else read_log(log)
    if measured is None:
        return
    kind = _kind_of(engine)
    key = hashlib.sha256("\x00".join(str(kind[name]) for name in sorted(kind)).encode()).hexdigest()
    if measured.concurrency is None and StartMeasure.objects.filter(key=key).exists():
        return
    values = {
        "weights_bytes": measured.weights_bytes,
        "cache_bytes": measured.cache_bytes,
        "cache_tokens": measured.cache_tokens,
        "max_model_len": measured.max_model_len,
        "concurrency": measured.concurrency,
        "gpu_memory_utilization": (
            engine.gpu_memory_utilization or read_flags(get_config().engine_extra_args).utilization
        ),
        "measured_at": now,
    }
    StartMeasure.objects.update_or_create(key=key, defaults=values, create_defaults={**kind, **values})


def starts_of(
    model: str, revisions: Collection[str], image: str, flags: MemoryFlags, lora: Lora | None = None
) -> list[Start]:
    """Those of this model at one of these revisions, image and flags, without adapters or with just these; the latest
    first."""
    texts = {_text(flags, None): None, _text(flags, lora): lora}
    rows = StartMeasure.objects.filter(model=model, revision__in=revisions, image=image, flags__in=texts)
    return [
        Start(
            Measured(row.weights_bytes, row.cache_bytes, row.cache_tokens, row.max_model_len, row.concurrency),
            row.tensor_parallel_size,
            row.quantization,
            row.kv_cache_dtype,
            row.gpu_memory_utilization,
            row.device,
            row.gpu_name,
            row.gpu_memory_bytes,
            texts[row.flags],
        )
        for row in rows.order_by("-measured_at", "-pk")[:100]
    ]


def _kind_of(engine: Engine) -> dict[str, str | int]:
    """What makes two starts alike, as columns."""
    flags = read_flags(get_config().engine_extra_args)
    lease = engine.gpu_leases.select_related("gpu").order_by("gpu__memory_bytes", "gpu__index").first()
    return {
        "model": engine.model,
        "revision": engine.revision or flags.revision,
        "image": engine.image,
        "device": engine.device,
        "gpu_name": lease.gpu.name if lease else "",
        "gpu_memory_bytes": lease.gpu.memory_bytes if lease else 0,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "quantization": engine.quantization,
        "kv_cache_dtype": flags.kv_cache_dtype[:40],
        "flags": _text(flags, _lora(engine)),
    }


def _lora(engine: Engine) -> Lora | None:
    """Its buffers are as large as the flags say, whatever the adapters are."""
    return Lora(len(engine.adapters), adapter_files.rank(engine)) if engine.adapters else None


def _text(flags: MemoryFlags, lora: Lora | None) -> str:
    more = f"--max-loras {lora.slots} --max-lora-rank {lora.rank}" if lora else ""
    return f"{flags.text} {more}".strip()[:300]
