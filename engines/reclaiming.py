"""Idle engines give way to those who wait for GPUs: the longest idle first, and only as many as are needed."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db.models import Count

from engines import terms
from engines.models import Engine, Gpu, GpuLease
from engines.states import Desired
from vllm_portal.config import get_config


class Idle(NamedTuple):
    engine_id: UUID
    since: datetime
    gpus: int


def chosen(ready: Iterable[Engine], now: datetime) -> list[Engine]:
    """Of the engines that are ready those to be stopped for the one that is next. A few queries, none where the
    settings reclaim nothing."""
    minutes = get_config().reclaim_idle_minutes
    if minutes is None:
        return []
    usable = sum(not gpu.is_taken for gpu in Gpu.objects.filter(present=True))
    first = Engine.objects.in_line().filter(tensor_parallel_size__lte=usable).first()
    if first is None:
        return []
    held = dict(GpuLease.objects.filter(gpu__present=True).values_list("engine").annotate(gpus=Count("pk")))
    ending = Engine.objects.filter(pk__in=held, desired=Desired.STOP).values_list("pk", flat=True)
    free = usable - sum(gpus for engine_id, gpus in held.items() if engine_id not in set(ending))
    by_id = {engine.pk: engine for engine in ready if engine.pk in held and _may_go(engine, now, minutes)}
    idle = [Idle(pk, engine.used_at, held[pk]) for pk, engine in by_id.items()]
    return [by_id[pk] for pk in fewest(idle, first.tensor_parallel_size - free)]


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
