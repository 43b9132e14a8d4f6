"""Which engine a request goes to. A snapshot of the READY engines, held in memory and re-read often."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from engines.models import Engine
from inference.errors import InvalidRequest, ModelNotFound
from vllm_portal.encryption import decrypt

DEFAULT_MAX_MODEL_LEN = 131_072  # for an engine that did not tell; only the bound of a reservation


@dataclass(slots=True)
class Route:
    """A READY engine as the data plane sees it. `in_flight` is this process's own count."""

    engine_id: str
    name: str
    model: str
    owner_id: int | None
    shared: bool
    address: tuple[str, int]
    authorization: bytes
    max_model_len: int
    task: str
    has_chat_template: bool
    created: int
    heads: dict[str, bytes] = field(default_factory=dict)
    """The beginnings of requests to it, by path; made by the relay."""
    in_flight: int = 0
    tokens_per_s: float = 0.0
    """Of one request; a slow mean, for estimating answers whose count was lost."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as a request to an engine matters."""

    user_id: int
    username: str
    is_admin: bool
    token_version: int
    expires_at: float
    key_id: int | None = None
    """The API key that the caller came with; None: an access token or a session."""
    key_version: int = 0
    models: frozenset[str] | None = None
    """Names of models or engines that the key is for; None: all."""
    may_infer: bool = True
    session: bytes = b""
    """The log-in that an access token comes from; b"": a key."""


class Routes:
    """Looked up per request, replaced as a whole by `refresh`."""

    def __init__(self) -> None:
        self._by_id: dict[str, Route] = {}
        self._by_name: dict[str, list[Route]] = {}

    def replace(self, engines: Iterable[Route]) -> None:
        """Takes a new snapshot; what is known of an engine that stays (in_flight, speed) stays."""
        by_id: dict[str, Route] = {}
        by_name: dict[str, list[Route]] = {}
        for route in engines:
            if old := self._by_id.get(route.engine_id):
                for name in Route.__slots__:
                    if name not in ("in_flight", "tokens_per_s"):
                        setattr(old, name, getattr(route, name))
                route = old
            by_id[route.engine_id] = route
            for name in {route.model, route.name}:
                by_name.setdefault(name, []).append(route)
        self._by_id, self._by_name = by_id, by_name

    def usable_by(self, caller: Caller) -> list[Route]:
        return [route for route in self._by_id.values() if _may_use(caller, route)]

    def find(self, caller: Caller, engine_id: str | None, model: str | None) -> Route:
        """By the engine's id where one is given, else by model. Raises as `engine` and `model`."""
        return self.engine(caller, engine_id) if engine_id is not None else self.model(caller, model)

    def engine(self, caller: Caller, engine_id: str) -> Route:
        """Raises ModelNotFound, also for an engine of somebody else."""
        route = self._by_id.get(engine_id)
        if route is None or not _may_use(caller, route):
            raise ModelNotFound("There is no such engine, or it is not ready. GET /active_models/ lists yours.")
        return route

    def model(self, caller: Caller, model: str | None) -> Route:
        """The least busy of the engines that serve `model`, the caller's own before others'. None: the caller's only
        engine. Raises InvalidRequest, ModelNotFound."""
        if model is None:
            candidates = self.usable_by(caller)
            if len({route.model for route in candidates}) > 1:
                raise InvalidRequest("model is missing, and you may use several.", param="model", code="missing_field")
        else:
            candidates = [route for route in self._by_name.get(model, ()) if _may_use(caller, route)]
        if not candidates:
            named = f"The model `{model[:200]}` does not exist" if model else "No model is running"
            raise ModelNotFound(f"{named} or you may not use it. GET /v1/models lists yours.", param="model")
        return min(candidates, key=lambda route: (route.owner_id != caller.user_id, route.in_flight))


def _may_use(caller: Caller, route: Route) -> bool:
    if caller.models is not None and caller.models.isdisjoint((route.model, route.name)):
        return False
    return route.shared or route.owner_id == caller.user_id or caller.is_admin


def read_routes() -> list[Route]:
    """The READY engines from the database. One query."""
    rows = Engine.objects.serving().exclude(port=None)
    return [
        Route(
            engine_id=str(engine.id),
            name=engine.name,
            model=engine.model,
            owner_id=engine.owner_id,
            shared=engine.shared,
            address=(engine.host, engine.port),
            authorization=b"Bearer " + decrypt(engine.engine_key_encrypted).encode(),
            max_model_len=engine.served_max_model_len or engine.max_model_len or DEFAULT_MAX_MODEL_LEN,
            task=engine.task,
            has_chat_template=engine.has_chat_template,
            created=int(engine.created_at.timestamp()),
        )
        for engine in rows
    ]
