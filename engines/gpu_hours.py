"""How long engines held GPUs, and how much of that they were ready, or slept, and nobody asked. Pure but for `of`,
which reads.

Held: from PLACED to the end, times the engine's GPUs or its share of them, as `EngineEvent` has it; a download before
the place holds nothing. Idle: of that, the clock hours (UTC), or parts of them, in which it was READY or SLEEPING and
no request began. Requests are known by the hour, so a short rest is not seen.
How busy a GPU was while an engine worked is not measured here.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

from django.db.models import Q, QuerySet

from engines.models import Engine, EngineEvent
from engines.states import FINAL, State

HOUR = timedelta(hours=1)
_NOT_HELD = FINAL | {State.QUEUED, State.ASLEEP}

Span = tuple[datetime, datetime]
Change = tuple[datetime, str]
"""When, and the state from then on."""


@dataclass(frozen=True, slots=True)
class GpuTime:
    """Of one engine, in seconds times GPUs."""

    engine: Engine
    held_s: float
    at_hand: tuple[Span, ...]
    """When it was ready, or slept because nobody asked."""


def of(engines: QuerySet[Engine], period: Span) -> list[GpuTime]:
    """Those that held GPUs in the period, who held most first. Two queries."""
    after, before = period
    lived = Q(created_at__lt=before) & (Q(ended_at=None) | Q(ended_at__gt=after))
    told = ("name", "model", "tensor_parallel_size", "gpu_memory_utilization")
    rows = {engine.pk: engine for engine in engines.filter(lived, device="cuda").only(*told)}
    changes: dict[UUID, list[Change]] = defaultdict(list)
    events = EngineEvent.objects.filter(engine__in=rows, at__lt=before).order_by("at", "id")
    for engine, at, state in events.values_list("engine_id", "at", "new_state"):
        changes[engine].append((at, state))
    found = [measured(engine, changes[pk], period) for pk, engine in rows.items()]
    return sorted((one for one in found if one.held_s), key=lambda one: (-one.held_s, one.engine.name))


def measured(engine: Engine, changes: list[Change], period: Span) -> GpuTime:
    """`changes`: oldest first."""
    held, at_hand = timedelta(0), []
    for start, end, state in _stretches(changes, period):
        if state not in _NOT_HELD:
            held += end - start
        if state in (State.READY, State.SLEEPING):
            at_hand.append((start, end))
    return GpuTime(engine, held.total_seconds() * engine.gpus, tuple(at_hand))


def _stretches(changes: list[Change], period: Span) -> Iterator[tuple[datetime, datetime, str]]:
    """From, to and the state between, within the period."""
    after, before = period
    as_if = ""
    for (at, state), (until, _) in pairwise([*changes, (before, "")]):
        without_place = state == State.FETCHING and as_if == State.QUEUED
        as_if = State.QUEUED if without_place else state
        start, end = max(at, after), min(until, before)
        if start < end:
            yield start, end, as_if


def idle_s(one: GpuTime, busy: Iterable[datetime]) -> float:
    """Seconds times GPUs. `busy`: beginnings of the hours (UTC) in which a request began."""
    hours = set(busy)
    parts = (part for span in one.at_hand for part in _hours(span))
    idle = sum((end - start for start, end in parts if _hour(start) not in hours), timedelta(0))
    return idle.total_seconds() * one.engine.gpus


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _hours(span: Span) -> Iterator[Span]:
    """The span, cut where an hour begins."""
    start, end = span
    while start < end:
        cut = min(_hour(start) + HOUR, end)
        yield start, cut
        start = cut
