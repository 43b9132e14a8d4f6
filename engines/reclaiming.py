"""Idle engines give way to those who wait for GPUs or slots: those that sleep first, then the longest idle, and only as
many as are needed."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from engines import queueing, room, terms
from engines.models import Engine
from engines.states import Desired, State
from vllm_portal.config import get_config


class Idle(NamedTuple):
    engine_id: UUID
    since: datetime
    sleeps: bool = False


def chosen(idle: Iterable[Engine], now: datetime) -> list[Engine]:
    """Of the engines that are ready or sleep those to be stopped for the one that is next, once it could start. A few
    queries, none where the settings reclaim nothing."""
    minutes = get_config().reclaim_idle_minutes
    if minutes is None:
        return []
    may_go = {engine.pk: engine for engine in idle if _may_go(engine, now, minutes)}
    return [may_go[pk] for on_cpu in (False, True) for pk in _chosen(may_go, on_cpu, now)] if may_go else []


def _chosen(may_go: Mapping[UUID, Engine], on_cpu: bool, now: datetime) -> list[UUID]:
    here = room.of(on_cpu)
    if here is None:
        return []
    first = next((one for one in queueing.line(on_cpu, now) if one.units <= len(here.units)), None)
    if first is None or first.downloads:
        return []
    holders = {held.engine_id for unit in here.units for held in unit.leases}
    ending = Engine.objects.filter(pk__in=holders).exclude(desired=Desired.RUN).values_list("pk", flat=True)
    gone = set(ending)

    def enough(more: Collection[UUID]) -> bool:
        return sum(unit.has_room(first.slices, gone.union(more)) for unit in here.units) >= first.units

    idle = [Idle(pk, one.used_at, one.state == State.SLEEPING) for pk, one in may_go.items() if pk in holders]
    return fewest(idle, enough)


def fewest(idle: Sequence[Idle], enough: Callable[[Collection[UUID]], bool]) -> list[UUID]:
    """Those to stop so that there is `enough` room without them; [] where none is needed, or all together would not
    do."""
    taken: list[UUID] = []
    if enough(taken):
        return []
    for *_, engine_id in sorted((not one.sleeps, one.since, one.engine_id) for one in idle):
        taken.append(engine_id)
        if enough(taken):
            break
    else:
        return []
    # The last one may make an earlier one needless: a large engine does for several small ones.
    for engine_id in reversed(taken[:-1]):
        others = [one for one in taken if one != engine_id]
        if enough(others):
            taken = others
    return taken


def _may_go(engine: Engine, now: datetime, minutes: int) -> bool:
    """One that sleeps has been idle for long enough."""
    since = terms.idle_since(engine)
    if since is None or (engine.keep_until is not None and engine.keep_until > now):
        return False
    return engine.state == State.SLEEPING or now - since >= timedelta(minutes=minutes)
