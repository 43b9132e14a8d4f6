"""Somebody wants an engine to end: find it, ask, hint."""

import re
import uuid
from functools import partial

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from engines import ending, hints, lifecycle
from engines.models import Engine
from engines.queries import EngineQuerySet
from engines.states import FINAL, Desired, State
from vllm_portal.errors import FieldError, NotFound

_SHORT_ID = re.compile(r"[0-9a-f]{12,64}\Z")
_CONTAINER_NAME = re.compile(r"vllm-portal-([0-9a-f]{12})-([0-9]{1,9})\Z")


def request_terminate(engine: Engine, by: User, at_once: bool = False) -> None:
    """Twice is fine, and so is one that has ended by itself. What it answers may end first, unless `at_once`."""
    if engine.state in FINAL:
        return
    with transaction.atomic():
        if lifecycle.request_terminate(engine, timezone.now(), str(by), at_once):
            transaction.on_commit(partial(hints.stop, engine.pk))


def press(engine: Engine, by: User) -> bool:
    """A button: pressed again, the engine ends at once, which is what True says. A double click is one press."""
    stops = (engine.state, engine.desired) == (State.STOPPING, Desired.STOP)
    again = stops and timezone.now() - engine.state_since >= ending.HEARD
    request_terminate(engine, by, at_once=again)
    return again


def find(user: User, container: str, engine_name: str = "") -> Engine:
    """The engine among those that the user may end. `container`: the container's id, the first 12 or more digits of it,
    its name, or the engine's id. Raises NotFound, FieldError where a short id means several."""
    own = Engine.objects.owned_by(user).select_related("owner")
    found = list(_candidates(own, container)[:2])
    if len(found) > 1:
        raise FieldError("container_id", "Several of your engines begin like this; give more digits.")
    if not found or (engine_name and engine_name != found[0].name):
        raise NotFound("There is no such container among your engines.")
    return found[0]


def _candidates(own: EngineQuerySet, container: str) -> EngineQuerySet:
    by_id = own.filter(container_id=container)
    if container and by_id.exists():
        return by_id
    if name := _CONTAINER_NAME.match(container):
        first, last = uuid.UUID(name[1] + "0" * 20), uuid.UUID(name[1] + "f" * 20)
        return own.filter(pk__gte=first, pk__lte=last, generation=int(name[2]))
    if (engine_id := _engine_id(container)) and own.filter(pk=engine_id).exists():
        return own.filter(pk=engine_id)
    if _SHORT_ID.match(container):
        return own.filter(container_id__startswith=container)
    return own.none()


def _engine_id(text: str) -> uuid.UUID | None:
    """Of an id as the portal writes it, with or without its dashes."""
    if not re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        return None
    return uuid.UUID(text)
