"""Where an engine stands that waits for GPUs, and when its turn may come. `forecast` is pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from engines.models import Engine, Gpu, GpuLease
from engines.states import State


class Place(NamedTuple):
    """`position`: 1 is next. `expected_at` None: nobody knows, because who holds the GPUs may hold them for ever."""

    position: int
    expected_at: datetime | None


def of(engines: Iterable[Engine], now: datetime) -> dict[UUID, Place]:
    """Of those of them that wait for GPUs. Three queries, none where nobody waits."""
    wanted = {engine.pk for engine in engines if engine.state == State.QUEUED and engine.device != "cpu"}
    if not wanted:
        return {}
    waiting = list(Engine.objects.in_line().values_list("pk", "tensor_parallel_size"))
    present = list(Gpu.objects.filter(present=True))
    if not present:
        return {}  # the GPUs are not known here
    times = _free_from([gpu for gpu in present if not gpu.is_taken], now)
    fitting = [row for row in waiting if row[1] <= len(times)]
    kept_out = [
        row for row in waiting if len(times) < row[1] <= len(present)
    ]  # by other programs, and holding up nobody
    places = forecast([*fitting, *kept_out], times)
    return {pk: place for pk, place in places.items() if pk in wanted}


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


def _free_from(usable: Iterable[Gpu], now: datetime) -> list[datetime | None]:
    ends = dict(GpuLease.objects.values_list("gpu", "engine__lease_ends_at"))
    at = [ends.get(gpu.pk, now) for gpu in usable]
    return [None if end is None else max(end, now) for end in at]
