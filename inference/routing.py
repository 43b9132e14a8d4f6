"""Which engine a request goes to. A snapshot of the READY engines, held in memory and re-read often."""

import time
from collections.abc import Callable, Iterable, Mapping
from struct import Struct
from typing import Protocol

from inference.breaker import Breaker
from inference.errors import InvalidRequest, ModelNotFound
from inference.fair_line import FairLine
from inference.ledger_link import counted
from inference.replicas import choose

_VERSIONS = Struct(">dd")


class Route:
    """A READY engine as the data plane sees it; or a LoRA adapter on one, which is one more model of that engine."""

    __slots__ = (
        "about", "adapter", "address", "authorization", "breaker", "comes_back", "created", "engine_id", "generation",
        "gone", "has_chat_template", "heads", "known", "line", "max_model_len", "meant", "model", "name", "names",
        "own_name", "owner_id", "parent", "resting", "shared", "task", "tokens_per_s", "users",
    )  # fmt: skip

    def __init__(
        self,
        engine_id: str,
        name: str,
        model: str,
        owner_id: int | None,
        shared: bool,
        address: tuple[str, int],
        authorization: bytes,
        max_model_len: int,
        task: str,
        has_chat_template: bool,
        created: int,
        users: frozenset[int] = frozenset(),
        adapter: str = "",
        parent: str = "",
        generation: int = 1,
        resting: bool = False,
        comes_back: bool = False,
    ) -> None:
        """`name`: the engine's. `model`: as the engine calls it; of an adapter the name that its owner chose. `users`:
        ids of those whom the owner shares it with, by name or as members of a group. `adapter`: what everybody calls
        the adapter, `<model>:<its repository>`; "": this is the model itself. `parent`: the adapter's model. `resting`:
        in vLLM's own sleep, or on its way there or back: it runs, and would leave unanswered what is forwarded to it.
        `comes_back`: asleep no longer, or not asleep at all but started afresh: nobody has to wake it."""
        self.engine_id = engine_id
        self.name = name
        self.model = model
        self.owner_id = owner_id
        self.shared = shared
        self.address = address
        self.authorization = authorization
        self.max_model_len = max_model_len
        self.task = task
        self.has_chat_template = has_chat_template
        self.created = created
        self.users = users
        self.adapter = adapter
        self.parent = parent
        self.generation = generation
        self.resting = resting
        self.comes_back = comes_back
        self.names: frozenset[str] = frozenset()
        """What a key may name that is for it: its model, its own name, the aliases of either."""
        self.meant: frozenset[str] = frozenset()
        """The aliases alone."""
        self.own_name = ""
        """What the adapter's owner may call it besides; "": that is an alias, or this is no adapter."""
        self.heads: dict[str, bytes] = {}
        """The beginnings of requests to it, by path; made by the relay."""
        self.about: dict[tuple[str, bool], bytes] = {}
        """What records say of it, as members of a JSON object, by path and whether it streams; made by `call.about`."""
        self.known: dict[str, bytes] = {}
        """What the streams of this generation have told of it."""
        self.line = FairLine()
        """This process's own requests to it: under way, and waiting for their turn."""
        self.breaker = Breaker()
        self.tokens_per_s = 0.0
        """Of one request; a slow mean, for estimating answers whose count was lost."""
        self.gone = False
        """No longer in the snapshot: what has not been forwarded goes to another engine, if there is one."""

    @property
    def title(self) -> str:
        """What it is, for lists and records: the same for everybody."""
        return self.adapter or self.model


_STAYS = frozenset(("line", "breaker", "known", "tokens_per_s", "gone"))
_CHANGES = tuple(name for name in Route.__slots__ if name not in _STAYS)
"""What a new snapshot tells of an engine that is known."""


class Caller:
    """Who asks, as far as a request to an engine matters. Not to be changed: requests share it."""

    __slots__ = (
        "about", "expires_at", "is_admin", "key_id", "key_version", "may_infer", "may_wake", "models", "opened",
        "payers", "rights", "session", "subjects", "token_version", "user_id", "username", "weight",
    )  # fmt: skip

    def __init__(
        self,
        user_id: int,
        username: str,
        is_admin: bool,
        token_version: int,
        expires_at: float,
        key_id: int | None = None,
        key_version: int = 0,
        models: frozenset[str] | None = None,
        may_infer: bool = True,
        may_wake: bool = True,
        weight: float = 1.0,
        session: bytes = b"",
    ) -> None:
        """`key_id`: the API key that the caller came with; None: an access token or a session. `models`: names of
        models or engines that the key is for; None: all. `may_wake`: engines that sleep. `weight`: of the user's share
        where an engine is full. `session`: the log-in that an access token comes from; b"": a key."""
        self.user_id = user_id
        self.username = username
        self.is_admin = is_admin
        self.token_version = token_version
        self.expires_at = expires_at
        self.key_id = key_id
        self.key_version = key_version
        self.models = models
        self.may_infer = may_infer
        self.may_wake = may_wake
        self.weight = weight
        self.session = session
        self.subjects = b"%d" % user_id, b"" if key_id is None else b"k%d" % key_id
        """User and key, as the ledger names them."""
        self.payers = b"".join([counted(subject) for subject in self.subjects])
        """The same, as its settlements want them."""
        self.rights = self.payers + _VERSIONS.pack(token_version, key_version) + counted(session)
        """User, key, their versions and the session, packed as the ledger's admissions want them."""
        self.opened = b"%b %b " % self.subjects
        """User and key, as what the ledger keeps of an open request begins."""
        self.about = b'"user_id":%d' % user_id
        """What records say of the caller, as members of a JSON object."""
        if key_id is not None:
            self.about += b',"key_id":%d' % key_id


class Asked(Protocol):
    """What a request asks for, as far as it decides between several engines."""

    @property
    def weight(self) -> int: ...

    def affinity(self, user_id: int) -> bytes: ...


Aliases = Mapping[str, frozenset[str]]
"""Names of models and engines by alias."""


class Routes:
    """Looked up per request, replaced as a whole by `refresh`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: the seconds that breakers are told."""
        self._clock = clock
        self._known: dict[tuple[str, str], Route] = {}
        """By engine and adapter."""
        self._by_id: dict[str, Route] = {}
        self._by_name: dict[str, list[Route]] = {}
        self._by_owner: dict[tuple[int, str], list[Route]] = {}
        """Adapters by what their owners call them."""
        self._adapters: dict[str, list[Route]] = {}
        """By the engine's id."""
        self.aliases: Aliases = {}

    def replace(self, engines: Iterable[Route], at_once: int = 256, aliases: Aliases | None = None) -> None:
        """Takes a new snapshot, in which adapters come behind their engine; what is known of an engine that stays (its
        line, its speed) stays. `at_once`: the requests that this process has under way at one engine. A name that is an
        alias means nothing else, also where none of what it stands for runs: else who starts an engine of that name
        would get what is meant for others. The names that people choose for adapters are nobody's but their own."""
        aliases = aliases or {}
        known: dict[tuple[str, str], Route] = {}
        by_name: dict[str, list[Route]] = {}
        by_owner: dict[tuple[int, str], list[Route]] = {}
        adapters: dict[str, list[Route]] = {}
        for route in engines:
            own = {route.adapter} if route.adapter else {route.model, route.name}
            route.meant = frozenset(alias for alias, targets in aliases.items() if not targets.isdisjoint(own))
            route.names = route.meant | own | {route.name}
            route.own_name = route.model if route.adapter and route.model not in aliases else ""
            key = (route.engine_id, route.adapter)
            old = self._known.get(key)
            if old is not None and old.generation == route.generation:
                for name in _CHANGES:
                    setattr(old, name, getattr(route, name))
                route = old
            if route.adapter:
                base = known[route.engine_id, ""]
                route.line, route.breaker = base.line, base.breaker
                adapters.setdefault(route.engine_id, []).append(route)
            route.line.set_most(at_once)
            known[key] = route
            for name in (own - aliases.keys()) | route.meant:
                by_name.setdefault(name, []).append(route)
            if route.own_name and route.owner_id is not None:
                by_owner.setdefault((route.owner_id, route.own_name), []).append(route)
        for key, route in self._known.items():
            route.gone = known.get(key) is not route
        self._known, self._by_name, self._by_owner, self._adapters = known, by_name, by_owner, adapters
        self.aliases = aliases
        self._by_id = {engine_id: route for (engine_id, adapter), route in known.items() if not adapter}

    def resting(self, engine_id: str) -> Route | None:
        """The engine where it rests; None: it does not, or is not here."""
        route = self._by_id.get(engine_id)
        return route if route is not None and route.resting else None

    def usable_by(self, caller: Caller) -> list[Route]:
        """Adapters as well."""
        return [route for route in self._known.values() if _may_use(caller, route)]

    def find(self, caller: Caller, engine_id: str | None, model: str | None, asked: Asked | None = None) -> Route:
        """By the engine's id where one is given, else by model. Raises as `engine` and `model`."""
        return self.engine(caller, engine_id, model) if engine_id is not None else self.model(caller, model, asked)

    def engine(self, caller: Caller, engine_id: str, model: str | None = None) -> Route:
        """`model` may name an adapter of the engine; whatever else it is, the engine will judge. Raises ModelNotFound,
        also for an engine of somebody else."""
        route = self._by_id.get(engine_id)
        if route is not None and model is not None:
            adapters = self._adapters.get(engine_id, ())
            route = next((one for one in adapters if model in (one.model, one.adapter)), route)
        if route is None or not _may_use(caller, route):
            raise ModelNotFound("There is no such engine, or it is not ready. GET /active_models/ lists yours.")
        return route

    def model(self, caller: Caller, model: str | None, asked: Asked | None = None) -> Route:
        """Of the engines that serve `model` the one that `replicas` chooses, the caller's own before others'. None: the
        caller's only engine. Raises InvalidRequest, ModelNotFound."""
        if model is None:
            candidates = [route for route in self.usable_by(caller) if not route.adapter]
            if len({route.model for route in candidates}) > 1:
                raise InvalidRequest("model is missing, and you may use several.", param="model", code="missing_field")
        else:
            named = self._by_name.get(model, ())
            if len(named) == 1 and _may_use(caller, named[0]):
                return named[0]
            candidates = self._named(caller, model) or self._only_one(self._own_adapters(caller, model), model)
        if len(candidates) == 1:
            return candidates[0]
        if not candidates:
            named = f"The model `{model[:200]}` does not exist" if model else "No model is running"
            raise ModelNotFound(f"{named} or you may not use it. GET /v1/models lists yours.", param="model")
        return self._best(caller, candidates, asked)

    def instead(self, caller: Caller, model: str, failed: Route, asked: Asked) -> Route | None:
        """Another engine that can do what was to be done by one that cannot be reached. None: there is none."""
        own = [route for route in self._own_adapters(caller, model) if route.adapter == failed.adapter]
        candidates = [
            route
            for route in self._named(caller, model) or own
            if route.engine_id != failed.engine_id and _does_the_same(route, failed)
        ]
        return self._best(caller, candidates, asked) if candidates else None

    def _named(self, caller: Caller, model: str) -> list[Route]:
        return [route for route in self._by_name.get(model, ()) if _may_use(caller, route)]

    def _own_adapters(self, caller: Caller, name: str) -> list[Route]:
        return [route for route in self._by_owner.get((caller.user_id, name), ()) if _may_use(caller, route)]

    def _only_one(self, adapters: list[Route], name: str) -> list[Route]:
        """Raises InvalidRequest where they are not all the same."""
        titles = sorted({route.title for route in adapters})
        if len(titles) > 1:
            which = " or ".join(titles[:5])
            raise InvalidRequest(f"Your engines have several adapters {name[:64]}: ask for {which}.", param="model")
        return adapters

    def _best(self, caller: Caller, candidates: list[Route], asked: Asked | None) -> Route:
        if len(candidates) == 1:
            return candidates[0]
        now = self._clock()
        sound = [route for route in candidates if not route.breaker.is_doubted(now)] or candidates
        own = [route for route in sound if route.owner_id == caller.user_id] or sound
        if len(own) == 1:
            return own[0]
        key, tokens = (b"", 1) if asked is None else (asked.affinity(caller.user_id), asked.weight)
        return own[choose([route.engine_id for route in own], [route.line.outstanding for route in own], key, tokens)]


def _may_use(caller: Caller, route: Route) -> bool:
    if caller.models is not None and caller.models.isdisjoint(_for_keys(caller, route)):
        return False
    return route.shared or route.owner_id == caller.user_id or caller.is_admin or caller.user_id in route.users


def _for_keys(caller: Caller, route: Route) -> frozenset[str]:
    own = route.own_name and route.owner_id == caller.user_id
    return route.names | {route.own_name} if own else route.names


def _does_the_same(one: Route, other: Route) -> bool:
    return (one.task, one.has_chat_template) == (other.task, other.has_chat_template)
