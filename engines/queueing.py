"""Where an engine stands that waits for GPUs, and when its turn may come. `forecast` is pure.

Who still waits for a download or an image is overtaken, unless that ends soon: decision 0030.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from heapq import nsmallest
from typing import NamedTuple
from uuid import UUID

from engines import room
from engines.downloads import told as downloads
from engines.models import Engine
from engines.placement import slices_to_be_free
from engines.room import Room
from engines.states import FETCHED, State

HEAD = 10
SOON_S = 180
"""Others wait for a download that still takes so long at most."""
UNTOLD = timedelta(seconds=20)
"""And so long for one that cannot say yet."""


class Place(NamedTuple):
    """`position`: 1 is next. `expected_at` None: nobody knows, because who holds the GPUs may hold them for ever."""

    position: int
    expected_at: datetime | None


class Waiting(NamedTuple):
    """For so many units, GPUs or slots, and so many slices of each. `downloads`: it could not take them yet."""

    engine_id: UUID
    units: int
    slices: int
    downloads: bool = False


def of(engines: Iterable[Engine], now: datetime) -> dict[UUID, Place]:
    """Of those of them that wait for GPUs, or for slots of the CPU. Four queries for each and a few for each engine
    that comes up where others wait, none where nobody waits."""
    waiting = [engine for engine in engines if engine.state == State.QUEUED]
    found: dict[UUID, Place] = {}
    for on_cpu in (False, True):
        wanted = {engine.pk for engine in waiting if engine.on_cpu is on_cpu}
        here = room.of(on_cpu) if wanted else None
        if here is not None:
            found |= {pk: place for pk, place in _places(here, on_cpu, now).items() if pk in wanted}
    return found


def turn(on_cpu: bool, now: datetime, usable: int) -> list[UUID]:
    """`first` of the line, of which it mostly needs but the head: who asks may be one of hundreds that wait."""
    head = line(on_cpu, now, HEAD)
    return first(head if any(one.units <= usable for one in head) else line(on_cpu, now), usable)


def line(on_cpu: bool, now: datetime, most: int | None = None) -> list[Waiting]:
    """All that wait, or the first of them, the next one first, with those whose download ends soon."""
    rows = Engine.objects.in_line(on_cpu).only(
        "state", "state_since", "download", "tensor_parallel_size", "gpu_memory_utilization"
    )[:most]
    return [
        Waiting(row.pk, row.tensor_parallel_size, 1 if on_cpu else row.gpu_slices, row.state in FETCHED)
        for row in rows
        if row.state == State.QUEUED or _is_soon_there(row, now)
    ]


def first(waiting: Iterable[Waiting], usable: int) -> list[UUID]:
    """Whose turn it is: the first that so many units would do for, and those before it, for which they would not."""
    found = []
    for one in waiting:
        found.append(one.engine_id)
        if one.units <= usable:
            break
    return found


def _is_soon_there(engine: Engine, now: datetime) -> bool:
    # How long a pull takes nobody knows; what was downloaded before it says nothing of it.
    seen = downloads.of(engine.download) if engine.state == State.FETCHING else None
    if seen is None or seen.eta_s is None:
        return now - engine.state_since < UNTOLD
    return seen.eta_s <= SOON_S


def forecast(waiting: Iterable[Waiting], free_from: Sequence[Sequence[datetime | None]]) -> dict[UUID, Place]:
    """`waiting`: the first first. `free_from`: of each unit when each of its slices comes free, if no engine ends
    sooner than it must; None: never. Nobody overtakes, and who gets a place is taken to keep it."""
    sizes = [len(unit) for unit in free_from]
    times = [sorted(at for at in unit if at is not None) for unit in free_from]
    found: dict[UUID, Place] = {}
    latest: datetime | None = None
    known = True
    for position, one in enumerate(waiting, 1):
        known = known and (at := _earliest(one, times, sizes)) is not None
        if known:
            latest = max(filter(None, (at, latest)))
        found[one.engine_id] = Place(position, latest if known else None)
    return found


def _earliest(one: Waiting, times: list[list[datetime]], sizes: Sequence[int]) -> datetime | None:
    """When it finds its place, which is taken out of `times`. None: nobody knows."""
    needed = {size: slices_to_be_free(one.slices, size) for size in set(sizes)}
    room_at = [
        (unit[enough - 1], number)
        for number, unit in enumerate(times)
        if len(unit) >= (enough := needed[sizes[number]])
    ]
    if len(room_at) < one.units:
        return None
    taken = nsmallest(one.units, room_at)
    for _, number in taken:
        del times[number][: one.slices]
    return taken[-1][0]


def _places(here: Room, on_cpu: bool, now: datetime) -> dict[UUID, Place]:
    waiting, usable = line(on_cpu, now), len(here.units)
    fitting = [one for one in waiting if one.units <= usable]
    kept_out = [one for one in waiting if usable < one.units <= here.present]  # by other programs; holds up nobody
    up_at = {} if on_cpu else room.up_at(here, now)
    free_from = [unit.free_from(now, up_at.get(unit.gpu_id, now)) for unit in here.units]
    return forecast([*fitting, *kept_out], free_from)
