"""Where an engine stands that waits for GPUs, and when its turn may come. `forecast` is pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from engines import room
from engines.models import Engine
from engines.room import Room
from engines.states import State


class Place(NamedTuple):
    """`position`: 1 is next. `expected_at` None: nobody knows, because who holds the GPUs may hold them for ever."""

    position: int
    expected_at: datetime | None


def of(engines: Iterable[Engine], now: datetime) -> dict[UUID, Place]:
    """Of those of them that wait for GPUs, or for slots of the CPU. Three queries for each, none where nobody waits."""
    waiting = [engine for engine in engines if engine.state == State.QUEUED]
    found: dict[UUID, Place] = {}
    for on_cpu in (False, True):
        wanted = {engine.pk for engine in waiting if engine.on_cpu is on_cpu}
        here = room.of(on_cpu) if wanted else None
        if here is not None:
            found |= {pk: place for pk, place in _places(here, on_cpu, now).items() if pk in wanted}
    return found


def _places(here: Room, on_cpu: bool, now: datetime) -> dict[UUID, Place]:
    waiting = list(Engine.objects.in_line(on_cpu).values_list("pk", "tensor_parallel_size"))
    fitting = [row for row in waiting if row[1] <= here.usable]
    kept_out = [row for row in waiting if here.usable < row[1] <= here.present]  # by other programs; holds up nobody
    times = [now] * here.free + [None if end is None else max(end, now) for _, end in here.leases]
    return forecast([*fitting, *kept_out], times)


def forecast(waiting: Sequence[tuple[UUID, int]], free_from: Sequence[datetime | None]) -> dict[UUID, Place]:
    """`waiting`: who waits and for how many GPUs, the first first. `free_from`: when each GPU comes free, if no engine
    ends sooner than it must; None: never. Nobody overtakes, and who gets a place is taken to keep it."""
    times = sorted((at for at in free_from if at is not None), reverse=True)
    found: dict[UUID, Place] = {}
    latest: datetime | None = None
    known = True
    for position, (pk, gpus) in enumerate(waiting, 1):
        known = known and len(times) >= gpus
        if known:
            taken = [times.pop() for _ in range(gpus)]
            latest = max(filter(None, (*taken, latest)))
        found[pk] = Place(position, latest if known else None)
    return found
