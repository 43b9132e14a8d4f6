"""Idle engines give way to those who wait for GPUs or slots: the longest idle first, and only as many as are needed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from engines import room, terms
from engines.models import Engine
from engines.states import Desired
from vllm_portal.config import get_config


class Idle(NamedTuple):
    engine_id: UUID
    since: datetime
    gpus: int


def chosen(ready: Iterable[Engine], now: datetime) -> list[Engine]:
    """Of the engines that are ready those to be stopped for the ones that are next. A few queries, none where the
    settings reclaim nothing."""
    minutes = get_config().reclaim_idle_minutes
    if minutes is None:
        return []
    may_go = {engine.pk: engine for engine in ready if _may_go(engine, now, minutes)}
    return [may_go[pk] for on_cpu in (False, True) for pk in _chosen(may_go, on_cpu)] if may_go else []


def _chosen(may_go: Mapping[UUID, Engine], on_cpu: bool) -> list[UUID]:
    here = room.of(on_cpu)
    if here is None:
        return []
    first = Engine.objects.in_line(on_cpu).filter(tensor_parallel_size__lte=here.usable).first()
    if first is None:
        return []
    held = Counter(engine_id for engine_id, _ in here.leases)
    ending = Engine.objects.filter(pk__in=held).exclude(desired=Desired.RUN).values_list("pk", flat=True)
    coming = sum(held[pk] for pk in ending)
    idle = [Idle(pk, engine.used_at, held[pk]) for pk, engine in may_go.items() if held[pk]]
    return fewest(idle, first.tensor_parallel_size - here.free - coming)


def fewest(idle: Sequence[Idle], wanted: int) -> list[UUID]:
    """Those to stop so that `wanted` more GPUs come free; [] where none is needed, or all together would not do."""
    taken: list[Idle] = []
    for one in sorted(idle, key=lambda one: (one.since, one.engine_id)):
        if sum(each.gpus for each in taken) >= wanted:
            break
        taken.append(one)
    if sum(each.gpus for each in taken) < wanted:
        return []
    # The last one may make an earlier one needless: a large engine does for several small ones.
    spare = sum(each.gpus for each in taken) - wanted
    kept: list[Idle] = []
    for one in reversed(taken):
        if one.gpus <= spare and one is not taken[-1]:
            spare -= one.gpus
        else:
            kept.append(one)
    return [one.engine_id for one in reversed(kept)]


def _may_go(engine: Engine, now: datetime, minutes: int) -> bool:
    since = terms.idle_since(engine)
    kept = engine.keep_until is not None and engine.keep_until > now
    return since is not None and now - since >= timedelta(minutes=minutes) and not kept
