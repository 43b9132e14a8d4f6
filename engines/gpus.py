"""The GPUs of this machine: what NVIDIA's driver says, as rows. Called in the worker."""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engines.models import Gpu

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A GPU as the driver names it."""

    uuid: str
    index: int
    name: str
    memory_bytes: int


def refresh(now: datetime, found: list[Found] | None) -> None:
    """Makes the rows say what was found. None, nothing is known: the rows stay. A GPU that is gone keeps its row, for
    an engine may still hold it; it only gets no new engines."""
    if found is None:
        return
    for gpu in found:
        values = {"index": gpu.index, "name": gpu.name, "memory_bytes": gpu.memory_bytes}
        Gpu.objects.update_or_create(uuid=gpu.uuid, defaults={**values, "present": True, "seen_at": now})
    gone = Gpu.objects.filter(present=True).exclude(uuid__in=[gpu.uuid for gpu in found])
    if gone.update(present=False):
        logger.warning("GPUs that were there before are gone")


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
    try:
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:  # GPUs that share the machine's memory have none of their own
        memory = 0
    return Found(_text(nvml.nvmlDeviceGetUUID(handle)), index, _text(nvml.nvmlDeviceGetName(handle))[:100], memory)


def _text(value: str | bytes) -> str:
    """Older versions of the package give bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _shut_down(nvml: Any) -> None:
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        logger.warning("the GPU driver does not let go: %s", error)
