"""What the pages show of engines: who sees which, in which order, and how far one that comes up has come."""

import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from statistics import median
from typing import Any

from django.db.models import prefetch_related_objects
from django.utils.timesince import timesince

from accounts.models import User
from engines import gauges, queueing, sharing, terms
from engines.downloads import told as downloads
from engines.downloads.told import Fetching
from engines.gauges import Gauges
from engines.models import Engine
from engines.queueing import Place
from engines.states import COMING_UP, FINAL, RESTING, State

LATEST_ENDED = 6
MOST_SHOWN = 30
"""Cards of one kind; the rest is a number."""
_STARTS = 200
"""Starts that an estimate looks back at, all models together."""

PHASES = (
    ("downloading the model", {State.FETCHING}),
    ("fetching", {State.PULLING}),
    ("waiting", {State.QUEUED, State.PLACED}),
    ("starting", {State.STARTING}),
    ("loading", {State.LOADING}),
)
SHAPES = {
    State.READY: "good",
    State.UNHEALTHY: "bad",
    State.FAILED: "bad",
    State.SLEEPING: "rest",
    State.ASLEEP: "off",
    State.STOPPED: "off",
}
"""The icon beside a state: a state is told by word, colour and shape. Not named here: busy."""
WORDS = {
    State.QUEUED: "waiting",
    State.PLACED: "has its place",
    State.PULLING: "fetching",
    State.FETCHING: "downloading the model",
    State.STARTING: "starting",
    State.LOADING: "loading",
    State.READY: "ready",
    State.UNHEALTHY: "does not answer",
    State.SLEEPING: "dozing",
    State.WAKING: "waking",
    State.STOPPING: "stopping",
    State.ASLEEP: "asleep",
    State.STOPPED: "stopped",
    State.FAILED: "failed",
}

OPTIONS = {
    "max_model_len": "requests of up to {:,} tokens",
    "gpu_memory_utilization": "{:.0%} of each GPU's memory",
}
"""What is changed for another start, where the option's name does not say it."""

STEPS = {
    "queue": "waiting for its place",
    "pull": "fetching the image",
    "start": "making the container or process",
    "boot": "vLLM comes up",
    "configure": "reading the configuration",
    "core": "the engine's core comes up",
    "download": "downloading the model and its adapters",
    "load": "loading the weights",
    "compile": "compiling",
    "kv_cache": "measuring the KV cache",
    "graphs": "capturing CUDA graphs",
    "listen": "the API begins to listen",
    "ready": "ready",
}
"""The steps of `engines.starts` in words."""


@dataclass(frozen=True)
class Phase:
    name: str
    done: bool
    now: bool


@dataclass(frozen=True)
class Card:
    """An engine as the viewer sees it."""

    engine: Engine
    own: bool
    """The viewer decides over its life: its owner, or an admin."""
    viewer: str
    word: str
    shape: str
    lasts: str
    """How long it has been in this state, in words."""
    phases: tuple[Phase, ...] = ()
    seconds: int = 0
    """Since it was asked for; 0 unless it is coming up."""
    usual_s: int | None = None
    """What earlier starts of the model took; None: there was none."""
    gauges: Gauges | None = None
    place: Place | None = None
    """In the line for GPUs."""

    @cached_property
    def doing(self) -> list[str]:
        """What it does now, each in a few words; [] where that is not known."""
        return [] if self.gauges is None else doing(self.gauges)

    @property
    def talks(self) -> bool:
        """A prompt gets an answer, if only after it has woken."""
        return self.engine.state in (State.READY, State.ASLEEP, *RESTING) and self.engine.task == Engine.Task.GENERATE

    @property
    def sleeps(self) -> bool:
        """Until a request or its owner wakes it."""
        return self.engine.state in (State.SLEEPING, State.ASLEEP)

    @property
    def kv_cache_percent(self) -> int | None:
        return None if self.gauges is None else kv_cache_percent(self.gauges)

    @property
    def download(self) -> Fetching | None:
        """While it goes on, from when its size is known."""
        seen = downloads.of(self.engine.download) if self.engine.state == State.FETCHING else None
        return seen if seen and seen.bytes_total else None

    @property
    def left_s(self) -> int | None:
        """None: not known, or it takes longer than usual already."""
        return None if self.usual_s is None or self.seconds >= self.usual_s else self.usual_s - self.seconds

    @property
    def cure(self) -> str:
        """What is changed when it is started again, in words; "": nothing."""
        return ", ".join(_in_words(name, value) for name, value in sorted((self.engine.change or {}).items()))

    @cached_property
    def facts(self) -> list[str]:
        """What else a card says, each in a few words."""
        engine, said = self.engine, []
        if self.asked_by != self.viewer:
            said.append(f"of {self.asked_by}")
        if self.shared_with:
            said.append(self.shared_with)
        said += [lease.told for lease in engine.gpu_leases.all()]
        said += self.terms
        if engine.served_max_model_len:
            said.append(f"requests of up to {engine.served_max_model_len:,} tokens")
        return said

    @cached_property
    def terms(self) -> list[str]:
        """When it ends by itself, or begins."""
        engine, said = self.engine, []
        if self.place is not None:
            at = self.place.expected_at
            when = f", expected at {_clock(at)}" if at else ""
            said.append(f"number {self.place.position} in line{when}")
        if engine.state in FINAL:
            return said
        if engine.lease_ends_at is not None:
            said.append(f"until {_clock(engine.lease_ends_at)}")
        if (at := terms.sleep_at(engine)) is not None:
            said.append(f"dozes from {_clock(at)} if nobody asks it")
        if (at := terms.idle_stop_at(engine)) is not None:
            said.append(f"{'sleeps from' if terms.sleeps(engine) else 'stops at'} {_clock(at)} if nobody asks it")
        return said

    @property
    def ends_at(self) -> datetime | None:
        """The nearest time at which it ends or sleeps by itself, as far as that is known."""
        if self.engine.state in FINAL:
            return None
        return min(filter(None, (self.engine.lease_ends_at, terms.idle_stop_at(self.engine))), default=None)

    @property
    def ending(self) -> str:
        """What comes at `ends_at`, in words."""
        if self.ends_at == self.engine.lease_ends_at:
            return "its lease ends"
        return "it sleeps" if terms.sleeps(self.engine) else "it stops"

    @cached_property
    def shared_with(self) -> str:
        """ "": with nobody. Whom else it is shared with only who decides over it is told."""
        if self.engine.shared:
            return "shared with all users"
        if not self.own:
            return "shared with you"
        names = [name for of in sharing.names(self.engine).values() for name in of]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"shared with {', '.join(names[:3])}{more}" if names else ""

    @property
    def asked_by(self) -> str:
        return self.engine.owner.username if self.engine.owner else "nobody any more"


@dataclass(frozen=True)
class Shown:
    """The cards of one viewer."""

    own: list[Card]
    ended: list[Card]
    others: list[Card]
    more: int
    """Engines of these kinds that are not shown."""

    @property
    def rising(self) -> bool:
        """One of them counts down until it is ready."""
        return any(card.phases for card in (*self.own, *self.others))

    @property
    def nothing(self) -> bool:
        return not (self.own or self.ended or self.others)


def shown(user: User, now: datetime) -> Shown:
    """One's own engines that live, the latest of those that ended, and what one may use of others. A fixed number of
    queries."""
    mine = Engine.objects.filter(owner=user)
    own = _page(mine.active())
    ended = _page(mine.filter(state__in=FINAL).order_by("-ended_at", "-created_at"), LATEST_ENDED)
    others = _page(Engine.objects.usable_by(user).exclude(owner=user).active())
    prefetch_related_objects([*own, *ended, *others], "gpu_leases__gpu")
    prefetch_related_objects([*own, *ended, *(others if user.is_admin else [])], "shared_users", "shared_groups")
    live = [*own, *others]
    known = (usual_seconds(live), gauges.of(live), queueing.of(live, now))
    sets = [[card(engine, user, now, *known) for engine in engines] for engines in (own, ended, others)]
    total = (mine | Engine.objects.usable_by(user).active()).count()
    return Shown(*sets, more=max(0, total - sum(map(len, sets))))


def card(
    engine: Engine,
    user: User,
    now: datetime,
    usual: dict[str, int] | None = None,
    told: dict[uuid.UUID, Gauges] | None = None,
    places: dict[uuid.UUID, Place] | None = None,
) -> Card:
    own = user.is_admin or engine.owner_id == user.pk
    state = State(engine.state)
    lasts = timesince(engine.state_since, now, depth=1)
    lasts = "less than a minute" if lasts.startswith("0") else lasts
    basics = (engine, own, user.username, WORDS[state], SHAPES.get(state, "busy"), lasts)
    if state not in COMING_UP:
        told = gauges.of([engine]) if told is None else told
        return Card(*basics, gauges=told.get(engine.pk))
    if usual is None:
        usual = usual_seconds([engine])
    seconds = max(0, int((now - (engine.asked_at or engine.created_at)).total_seconds()))
    places = queueing.of([engine], now) if places is None else places
    coming = (phases(engine), seconds, usual.get(engine.model))
    return Card(*basics, *coming, place=places.get(engine.pk))


def phases(engine: Engine) -> tuple[Phase, ...]:
    """Of an engine that is coming up. Only containers have an image to fetch, and not every model has to come."""
    state, skipped = State(engine.state), set()
    if engine.launcher != "docker":
        skipped.add(State.PULLING)
    if downloads.of(engine.download) is None:
        skipped.add(State.FETCHING)
    ways = [way for way in PHASES if state in way[1] or not way[1] & skipped]
    at = next(number for number, (_, states) in enumerate(ways) if state in states)
    return tuple(Phase(name, number < at, number == at) for number, (name, _) in enumerate(ways))


def usual_seconds(engines: Iterable[Engine]) -> dict[str, int]:
    """By model: the median of its latest starts, from being asked for to being ready. No query where none of the
    engines is coming up. Says how long somebody's start took and not whose it was."""
    models = {engine.model for engine in engines if engine.state in COMING_UP}
    if not models:
        return {}
    starts = (
        Engine.objects.filter(model__in=models, ready_at__isnull=False, generation=1)
        .order_by("-ready_at")
        .values_list("model", "created_at", "ready_at")[:_STARTS]
    )
    took: defaultdict[str, list[timedelta]] = defaultdict(list)
    for model, created_at, ready_at in starts:
        took[model].append(ready_at - created_at)
    return {model: max(1, round(median(of.total_seconds() for of in times))) for model, times in took.items()}


def digest(user: User) -> int:
    """Another number where the cards of this user are other ones than before. One query, over engines that may
    change; those that ended are in it by their number."""
    rows = Engine.objects.usable_by(user).active() | Engine.objects.filter(owner=user).active()
    engines = list(rows.order_by("pk").only("pk", "state", "detail", "shared", "generation"))
    rows_shown = [(engine.pk, engine.state, engine.detail, engine.shared) for engine in engines]
    busy = [(pk, *doing(told), kv_cache_percent(told)) for pk, told in gauges.of(engines).items()]
    return hash((*rows_shown, *busy))


def _in_words(option: str, value: Any) -> str:
    """An option of a start that is set, or taken away: None, []."""
    if value in (None, []):
        return f"no {option.replace('_', ' ')}"
    if option == "tensor_parallel_size":
        return f"{value} GPU{'' if value == 1 else 's'}"
    said = OPTIONS.get(option)
    return said.format(value) if said else f"{option.replace('_', ' ')} {value}"


def _clock(at: datetime) -> str:
    return f"{at:%a %H:%M} UTC"


def doing(told: Gauges) -> list[str]:
    said = [f"{told.running} running" + (f", {told.waiting} waiting" if told.waiting else "")]
    if told.generated_tokens_per_s is not None:
        said.append(f"{told.generated_tokens_per_s:,.0f} tokens/s")
    return said


def kv_cache_percent(told: Gauges) -> int | None:
    return None if told.kv_cache_use is None else round(100 * told.kv_cache_use)


def _page(engines, most: int = MOST_SHOWN) -> list[Engine]:
    return list(engines.select_related("owner")[:most])
