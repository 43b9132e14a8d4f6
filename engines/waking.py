"""An engine that sleeps is woken by a request, or by its owner: once, however many ask.

ASLEEP     nothing runs: its next generation is launched
SLEEPING   vLLM sleeps: it is called back
"""

import uuid
from datetime import datetime
from functools import partial
from typing import NamedTuple

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from engines import hints, lifecycle, queueing, sleeping, starts
from engines.models import Engine
from engines.starting import refuse_too_many_gpus
from engines.states import COMING_UP, Desired, State
from vllm_portal.errors import CallerError


class Sight(NamedTuple):
    """How far an engine is that somebody waits for."""

    ready: bool
    told: str
    """One line: what it does, and how long it will take where that is known."""
    lost: str = ""
    """Why it will not become ready; "": it may."""


def wake(engine: Engine, by: str) -> bool:
    """False: it does not sleep, or somebody was faster. Raises CallerError where its owner's other engines hold as many
    GPUs as allowed, or another one is measuring the memory that it would take."""
    if engine.state == State.SLEEPING:
        if sleeping.rouse(engine, timezone.now(), by):
            return True
        if others := lifecycle.waits_for(engine):
            raise CallerError(f"{_until_up(others)} Try again then.")
        return False
    with transaction.atomic():
        # As at a start: of two of one owner's engines the second sees what the first one takes.
        owner = User.objects.select_for_update().filter(pk=engine.owner_id).first()
        if owner is None:
            return False
        if not engine.on_cpu:
            refuse_too_many_gpus(owner, engine.gpus)
        if not lifecycle.wake(engine, timezone.now(), by):
            return False
        transaction.on_commit(partial(hints.launch, engine.pk))
    return True


def see(engine_id: uuid.UUID, by: str) -> Sight:
    """Wakes it if it sleeps, and says how far it is. To be asked again and again while somebody waits."""
    engine = Engine.objects.prefetch_related("events").filter(pk=engine_id).first()
    if engine is None:
        return Sight(False, "", "It is gone.")
    if engine.state == State.SLEEPING:
        if not sleeping.rouse(engine, timezone.now(), by):
            engine.refresh_from_db()
    elif engine.state == State.ASLEEP:
        try:
            if not wake(engine, by):
                engine.refresh_from_db()
        except CallerError as error:
            return Sight(False, "", str(error))
    if engine.state == State.READY:
        return Sight(True, "ready")
    if engine.state == State.SLEEPING:
        others = lifecycle.waits_for(engine)
        return Sight(False, _until_up(others).rstrip(".") if others else "waking")
    if engine.state == State.WAKING:
        return Sight(False, " ".join(f"waking {engine.detail}".split()))
    if engine.state in COMING_UP:
        return Sight(False, _progress(engine, timezone.now()))
    if engine.state == State.STOPPING and engine.desired == Desired.SLEEP:
        return Sight(False, "goes to sleep first")
    if engine.state == State.STOPPING and engine.desired == Desired.RUN:
        return Sight(False, "is started afresh")
    return Sight(False, "", engine.cause or f"It is {engine.state}.")


def _until_up(others: list[str]) -> str:
    return f"It waits until {' or '.join(others[:3])} has come up on the same GPU, whose memory it measures."


def _progress(engine: Engine, now: datetime) -> str:
    place = queueing.of([engine], now).get(engine.pk)
    if place is not None:
        return f"queued, number {place.position} in line for GPUs"
    parts = [engine.state.lower(), engine.detail]
    eta_s = starts.eta_s(engine, now)
    if eta_s is not None:
        parts.append(f"eta {eta_s:.0f}s")
    return " ".join(" ".join(parts).split())
