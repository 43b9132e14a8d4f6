"""How long an engine's start took, phase by phase, and how long one that comes up will still take."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from itertools import pairwise
from operator import or_
from statistics import median
from typing import Any
from uuid import UUID

from django.db.models import Q

from engines import timeline as logs
from engines.diagnosis import one_line
from engines.downloads import told as downloads
from engines.models import Engine, EngineEvent
from engines.states import COMING_UP, FETCHED, State

_OF_STATES = {
    State.QUEUED: "queue",
    State.PLACED: "queue",
    State.PULLING: "pull",
    State.FETCHING: "download",
    State.STARTING: "start",
    State.LOADING: "boot",
    State.READY: "ready",
}
_ALIKE = ("model", "image", "launcher", "device", "tensor_parallel_size")
_EARLIER = 10
"""As many earlier starts are asked, of each kind; of several kinds so many on average."""


@dataclass
class Step:
    """`duration_s` None: it goes on."""

    phase: str
    started_at: datetime
    duration_s: float | None = None
    detail: str = ""


def record(engine: Engine, log: str, began: datetime) -> None:
    """What the log says of an engine's phases; all of them anew each time, so it can be done again. `began`: when it
    came to LOADING."""
    told = [[phase.phase, round(phase.started_s, 1), one_line(phase.detail)] for phase in logs.phases(log, began)]
    if told and told != engine.phases:
        Engine.objects.filter(pk=engine.pk).update(phases=told)
        engine.phases = told


def timeline(engine: Engine) -> list[Step]:
    """From when it was asked for, or woken, until it was ready or had ended, in order. `ready` is a moment and has no
    duration."""
    steps: list[Step] = []
    end: datetime | None = None
    events = sorted(engine.events.all(), key=lambda event: (event.at, event.pk))
    begun = max((n for n, event in enumerate(events) if _begins(event)), default=0)
    for event in events[begun:]:
        phase = _OF_STATES.get(State(event.new_state))
        if phase is None:
            end = event.at
            break
        if not steps or steps[-1].phase != phase:
            steps.append(Step(phase, event.at, detail=_detail(engine, phase, event.message)))
        if phase == "boot":
            steps += [Step(name, event.at + timedelta(seconds=at), detail=words) for name, at, words in engine.phases]
        if phase == "ready":
            break
    for step, following in pairwise(steps):
        step.duration_s = max(0.0, round((following.started_at - step.started_at).total_seconds(), 1))
    if end is not None and steps:
        steps[-1].duration_s = max(0.0, round((end - steps[-1].started_at).total_seconds(), 1))
    return steps


def _begins(event: EngineEvent) -> bool:
    """A generation: asked for, woken, or in the place of the one before."""
    way = (event.old_state, event.new_state)
    return (way[1] == State.QUEUED and way[0] not in FETCHED) or way == (State.STOPPING, State.PLACED)


def _detail(engine: Engine, phase: str, message: str) -> str:
    if phase == "download" and (seen := downloads.of(engine.download)):
        return seen.told
    return message if phase == "pull" else ""


def load_s(engine: Engine) -> float | None:
    """Seconds from its place until it was ready, the last time; None: it was not."""
    steps = timeline(engine)
    waited = max((number for number, step in enumerate(steps) if step.phase == "queue"), default=-1)
    steps = steps[waited + 1 :]
    if not steps or steps[-1].phase != "ready":
        return None
    return (steps[-1].started_at - steps[0].started_at).total_seconds()


def eta_s(engine: Engine, now: datetime) -> float | None:
    """Seconds until it is ready: the median of what earlier starts of the same model, image and size took from where
    this one is. None: it does not come up, waits for a place, or there was no such start. 0: it takes longer."""
    return etas_s([engine], now).get(engine.pk)


def etas_s(engines: Iterable[Engine], now: datetime) -> dict[UUID, float | None]:
    """As `eta_s`, of those that come up and have left the line. Two queries however many they are, none without any."""
    coming = [engine for engine in engines if engine.state in COMING_UP - {State.QUEUED}]
    if not coming:
        return {}
    kinds = {_kind(engine) for engine in coming}
    alike = reduce(or_, (Q(**dict(zip(_ALIKE, kind, strict=True))) for kind in kinds))
    latest = Engine.objects.filter(alike, ready_at__isnull=False).order_by("-ready_at").prefetch_related("events")
    earlier: defaultdict[tuple[Any, ...], list[Engine]] = defaultdict(list)
    for one in latest[: (_EARLIER + 1) * len(kinds)]:
        earlier[_kind(one)].append(one)
    return {engine.pk: _left_s(engine, earlier[_kind(engine)], now) for engine in coming}


def _kind(engine: Engine) -> tuple[Any, ...]:
    return tuple(getattr(engine, name) for name in _ALIKE)


def _left_s(engine: Engine, alike: list[Engine], now: datetime) -> float | None:
    steps = timeline(engine)
    if not steps:
        return None
    here = steps[-1]
    earlier = [timeline(one) for one in alike if one.pk != engine.pk][:_EARLIER]
    if engine.state == State.FETCHING:
        return _after_download(engine, earlier)
    took = [left for start in earlier if (left := _from(start, here.phase)) is not None]
    if not took:
        return None
    return max(0.0, round(median(took) - (now - here.started_at).total_seconds(), 1))


def _after_download(engine: Engine, earlier: list[list[Step]]) -> float | None:
    """A download's own speed says more than earlier ones; what comes then they know."""
    seen = downloads.of(engine.download)
    took = [left for start in earlier if (left := _from(start, "start")) is not None]
    return round(seen.eta_s + median(took), 1) if took and seen and seen.eta_s is not None else None


def _from(start: list[Step], phase: str) -> float | None:
    """Seconds from the phase's last beginning until ready; None: this start had no such phase."""
    if not start or start[-1].phase != "ready":
        return None
    began = next((step.started_at for step in reversed(start) if step.phase == phase), None)
    return None if began is None else (start[-1].started_at - began).total_seconds()
