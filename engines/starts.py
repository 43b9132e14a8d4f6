"""How long an engine's start took, phase by phase, and how long one that comes up will still take."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from engines import timeline as logs
from engines.diagnosis import one_line
from engines.models import Engine
from engines.states import COMING_UP, State

_OF_STATES = {
    State.QUEUED: "queue",
    State.PLACED: "queue",
    State.PULLING: "pull",
    State.STARTING: "start",
    State.LOADING: "boot",
    State.READY: "ready",
}
_EARLIER = 10
"""As many earlier starts are asked."""


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
    begun = max((n for n, event in enumerate(events) if event.new_state == State.QUEUED), default=0)
    for event in events[begun:]:
        phase = _OF_STATES.get(State(event.new_state))
        if phase is None:
            end = event.at
            break
        if not steps or steps[-1].phase != phase:
            steps.append(Step(phase, event.at, detail=event.message if phase == "pull" else ""))
        if phase == "boot":
            steps += [Step(name, event.at + timedelta(seconds=at), detail=words) for name, at, words in engine.phases]
        if phase == "ready":
            break
    for step, following in pairwise(steps):
        step.duration_s = max(0.0, round((following.started_at - step.started_at).total_seconds(), 1))
    if end is not None and steps:
        steps[-1].duration_s = max(0.0, round((end - steps[-1].started_at).total_seconds(), 1))
    return steps


def load_s(engine: Engine) -> float | None:
    """Seconds from its place until it was ready, the last time; None: it was not."""
    steps = [step for step in timeline(engine) if step.phase != "queue"]
    if not steps or steps[-1].phase != "ready":
        return None
    return (steps[-1].started_at - steps[0].started_at).total_seconds()


def eta_s(engine: Engine, now: datetime) -> float | None:
    """Seconds until it is ready: the median of what earlier starts of the same model, image and size took from where
    this one is. None: it does not come up, waits for a place, or there was no such start. 0: it takes longer."""
    if engine.state not in COMING_UP - {State.QUEUED}:
        return None
    steps = timeline(engine)
    if not steps:
        return None
    alike = Engine.objects.filter(
        model=engine.model,
        image=engine.image,
        launcher=engine.launcher,
        device=engine.device,
        tensor_parallel_size=engine.tensor_parallel_size,
        ready_at__isnull=False,
    ).exclude(pk=engine.pk)
    earlier = [timeline(one) for one in alike.order_by("-ready_at").prefetch_related("events")[:_EARLIER]]
    here = steps[-1]
    took = [left for start in earlier if (left := _from(start, here.phase)) is not None]
    if not took:
        return None
    return max(0.0, round(median(took) - (now - here.started_at).total_seconds(), 1))


def _from(start: list[Step], phase: str) -> float | None:
    """Seconds from the phase's beginning until ready; None: this start had no such phase."""
    if not start or start[-1].phase != "ready":
        return None
    began = next((step.started_at for step in start if step.phase == phase), None)
    return None if began is None else (start[-1].started_at - began).total_seconds()
