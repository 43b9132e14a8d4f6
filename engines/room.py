"""Where engines find their place: the GPUs of this machine, or slots of its CPU where there are none."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import QuerySet

from engines.models import CpuLease, Gpu, GpuLease
from vllm_portal.config import get_config


class Room(NamedTuple):
    """In GPUs or slots; an engine needs as many as its tensor-parallel size. `present` counts what other programs hold,
    too; `usable` does not. `leases`: for each that is held by whom, and until when; None: for ever."""

    present: int
    usable: int
    leases: list[tuple[UUID, datetime | None]]

    @property
    def free(self) -> int:
        return max(0, self.usable - len(self.leases))


def of(on_cpu: bool) -> Room | None:
    """None: it has no bounds that are known here. Two queries at most."""
    if on_cpu:
        slots = get_config().cpu_slots
        return None if slots is None else Room(slots, slots, _leases(CpuLease.objects.all()))
    present = list(Gpu.objects.filter(present=True))
    if not present:
        return None
    usable = sum(not gpu.is_taken for gpu in present)
    return Room(len(present), usable, _leases(GpuLease.objects.filter(gpu__present=True)))


def free_slots() -> list[int]:
    """Numbers of the CPU's, the lowest first. After `cpu_slots` was lowered, engines may hold more than there are."""
    slots = get_config().cpu_slots or 0
    taken = set(CpuLease.objects.values_list("slot", flat=True))
    return [slot for slot in range(slots) if slot not in taken][: max(0, slots - len(taken))]


def _leases(rows: QuerySet[Any]) -> list[tuple[UUID, datetime | None]]:
    return list(rows.values_list("engine_id", "engine__lease_ends_at"))
