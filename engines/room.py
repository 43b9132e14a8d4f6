"""Where engines find their place: the GPUs of this machine, or slots of its CPU where there are none."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from engines import starts
from engines.models import CpuLease, Gpu, GpuLease
from engines.placement import SLICES, slices_to_be_free
from engines.states import GROWING
from vllm_portal.config import get_config


class Held(NamedTuple):
    """`until` None: for ever."""

    engine_id: UUID
    slices: int
    until: datetime | None


class Unit(NamedTuple):
    """A GPU, of which several engines may hold slices, or a slot, which is one slice."""

    slices: int
    leases: list[Held]
    gpu_id: int | None = None

    def free_from(self, now: datetime, rest: datetime | None) -> list[datetime | None]:
        """When each of its slices may be had, if no engine ends sooner than it must; None: never, or nobody knows.
        `rest`: when those that nobody holds."""
        ends = [end and max(end, now) for _, slices, end in self.leases for _ in range(slices)]
        return [*ends, *[rest] * (self.slices - len(ends))]

    def has_room(self, wanted: int, without: Collection[UUID] = ()) -> bool:
        """For so many slices, once these engines are gone."""
        left = self.slices - sum(held.slices for held in self.leases if held.engine_id not in without)
        return left >= slices_to_be_free(wanted, self.slices)


class Room(NamedTuple):
    """`present` counts what other programs hold, too; `units` are the others."""

    present: int
    units: list[Unit]

    @property
    def free(self) -> int:
        """Units that nobody holds anything of."""
        return sum(not unit.leases for unit in self.units)


def of(on_cpu: bool) -> Room | None:
    """None: it has no bounds that are known here. Two queries at most."""
    if on_cpu:
        return _slots()
    present = {gpu.pk: gpu for gpu in Gpu.objects.filter(present=True).only("foreign_memory_bytes")}
    if not present:
        return None
    units = {pk: Unit(SLICES, [], pk) for pk, gpu in present.items() if not gpu.is_taken}
    rows = GpuLease.objects.values_list("gpu", "engine_id", "slices", "engine__lease_ends_at")
    for gpu, *held in rows:  # all: there are few, and naming each GPU costs more than passing over those of others
        if gpu in units:
            units[gpu].leases.append(Held(*held))
    return Room(len(present), list(units.values()))


def up_at(here: Room, now: datetime) -> dict[int | None, datetime | None]:
    """By GPU of those on which an engine comes up or wakes: when it will be up, for until then nobody else gets a
    slice. None: earlier starts do not tell. One query, and a few for each such engine."""
    found: dict[int | None, datetime | None] = {}
    shared = [unit.gpu_id for unit in here.units if unit.leases and unit.has_room(1)]
    leases = GpuLease.objects.filter(gpu__in=shared, engine__state__in=GROWING).select_related("engine")
    for lease in leases.prefetch_related("engine__events"):
        eta_s = starts.eta_s(lease.engine, now)
        found[lease.gpu_id] = None if eta_s is None else now + timedelta(seconds=eta_s)
    return found


def _slots() -> Room | None:
    slots = get_config().cpu_slots
    if slots is None:
        return None
    leases = list(CpuLease.objects.order_by("slot").values_list("engine_id", "engine__lease_ends_at"))
    units = [Unit(1, [Held(engine_id, 1, until)]) for engine_id, until in leases[:slots]]
    return Room(slots, [*units, *(Unit(1, []) for _ in range(slots - len(units)))])


def free_slots() -> list[int]:
    """Numbers of the CPU's, the lowest first. After `cpu_slots` was lowered, engines may hold more than there are."""
    slots = get_config().cpu_slots or 0
    taken = set(CpuLease.objects.values_list("slot", flat=True))
    return [slot for slot in range(slots) if slot not in taken][: max(0, slots - len(taken))]
