"""What the data plane reads of engines and aliases, every few seconds and after each change."""

from typing import NamedTuple

from engines import sharing
from engines.models import Engine
from engines.states import RESTING, SERVING
from inference.models import ModelAlias
from inference.routing import Aliases, Route
from vllm_portal.encryption import decrypt

DEFAULT_MAX_MODEL_LEN = 131_072  # for an engine that did not tell; only the bound of a reservation


class Snapshot(NamedTuple):
    routes: list[Route]
    asleep: list[Route]
    """Those that a request wakes; their address is nobody's to use."""
    aliases: Aliases


def read() -> Snapshot:
    """The READY engines, and those that a request wakes. Four queries, however many engines, users and groups there
    are."""
    rows = list(Engine.objects.serving().exclude(port=None) | Engine.objects.wakeable())
    users = sharing.user_ids([row.pk for row in rows])
    aliases = {name: frozenset(targets) for name, targets in ModelAlias.objects.values_list("name", "targets")}
    awake, asleep = [], []
    for row in rows:
        (awake if row.state in SERVING else asleep).extend(_routes(row, users[row.pk]))
    return Snapshot(awake, asleep, aliases)


def _routes(engine: Engine, users: set[int]) -> list[Route]:
    """The engine, and behind it its adapters."""
    loaded = [
        _route(engine, users, adapter.name, full_name, engine.model) for adapter, full_name in engine.adapters_by_name
    ]
    return [_route(engine, users, engine.model), *loaded]


def _route(engine: Engine, users: set[int], model: str, adapter: str = "", parent: str = "") -> Route:
    return Route(
        engine_id=str(engine.id),
        name=engine.name,
        model=model,
        adapter=adapter,
        parent=parent,
        owner_id=engine.owner_id,
        shared=engine.shared,
        address=(engine.host, engine.port or 0),
        authorization=b"Bearer " + decrypt(engine.engine_key_encrypted).encode(),
        max_model_len=engine.served_max_model_len or engine.max_model_len or DEFAULT_MAX_MODEL_LEN,
        task=engine.task,
        has_chat_template=engine.has_chat_template,
        created=int(engine.created_at.timestamp()),
        users=frozenset(users),
        generation=engine.generation,
        resting=engine.state in RESTING,
        comes_back=engine.comes_back,
    )
