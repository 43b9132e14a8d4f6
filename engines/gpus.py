"""The GPUs of this machine: what NVIDIA's driver says, as rows. Called in the worker."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from engines.models import Gpu, GpuLease

logger = logging.getLogger(__name__)

_SPARE = 0.08
"""Of a GPU's memory vLLM leaves so much to others, by default."""
_KEPT = ("index", "name", "memory_bytes", "present", "seen_at", "memory_used_bytes", "utilization_percent",
         "temperature_c", "foreign_memory_bytes")  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A GPU as the driver tells of it. None: not every GPU says everything."""

    uuid: str
    index: int
    name: str
    memory_bytes: int
    memory_used_bytes: int | None = None
    utilization_percent: int | None = None
    """Of the time of the last moment in which something ran on it."""
    temperature_c: int | None = None
    processes_memory_bytes: int = 0
    """What programs hold that compute on it. Where the driver hides a share, all that is used; it may hide programs
    altogether (from a container it does), then all that is used if an engine would miss it."""


def refresh(now: datetime, look: Callable[[], list[Found] | None]) -> None:
    """Makes the rows say what a look finds. None, nothing is known: the rows stay. A GPU that is gone keeps its row,
    for an engine may still hold it; it only gets no new engines.

    What runs on a GPU that no engine holds is somebody else's. Who held one is read before the look: an engine's lease
    ends after its processes have.
    """
    leased = set(GpuLease.objects.values_list("gpu__uuid", flat=True))
    found = look()
    if found is None:
        return
    with transaction.atomic():
        rows = {gpu.uuid: gpu for gpu in Gpu.objects.select_for_update()}
        for one in found:
            told = asdict(one)
            foreign = told.pop("processes_memory_bytes") if one.uuid not in leased else 0
            row = rows.setdefault(one.uuid, Gpu(uuid=one.uuid))
            for name, value in {**told, "present": True, "seen_at": now, "foreign_memory_bytes": foreign}.items():
                setattr(row, name, value)
        gone = rows.keys() - {one.uuid for one in found}
        if any(rows[uuid].present for uuid in gone):
            logger.warning("GPUs that were there before are gone")
        for uuid in gone:
            rows[uuid].present = False
        Gpu.objects.bulk_create([row for row in rows.values() if row.pk is None])
        Gpu.objects.bulk_update([row for row in rows.values() if row.pk is not None], _KEPT)


def look(nvml: Any = None) -> list[Found] | None:
    """All NVIDIA GPUs. []: there is no driver, so no GPU. None: the driver is there and does not answer properly.

    `nvml` is the module pynvml, or one like it.
    """
    if nvml is None:
        import pynvml as nvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED):
            return []
        logger.warning("the GPU driver does not answer: %s", error)
        return None
    try:
        return [_describe(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        logger.warning("the GPU driver does not tell of its GPUs: %s", error)
        return None
    finally:
        _shut_down(nvml)


def _describe(nvml: Any, index: int) -> Found:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def told(call: str, *arguments: Any) -> Any:
        """None: this GPU does not say (no memory of its own, no sensor, split into instances)."""
        try:
            return getattr(nvml, call)(handle, *arguments)
        except nvml.NVMLError:
            return None

    memory, rates = told("nvmlDeviceGetMemoryInfo"), told("nvmlDeviceGetUtilizationRates")
    used = None if memory is None else int(memory.used)
    shares = [process.usedGpuMemory for process in told("nvmlDeviceGetComputeRunningProcesses") or []]
    total = 0 if memory is None else int(memory.total)
    hidden = None in shares or (not shares and (used or 0) > _SPARE * total)
    return Found(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle))[:100],
        memory_bytes=total,
        memory_used_bytes=used,
        utilization_percent=None if rates is None else int(rates.gpu),
        temperature_c=told("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        processes_memory_bytes=(used or 0) if hidden else sum(shares),
    )


def _text(value: str | bytes) -> str:
    """Older versions of the package give bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _shut_down(nvml: Any) -> None:
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        logger.warning("the GPU driver does not let go: %s", error)
