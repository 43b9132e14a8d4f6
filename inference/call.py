"""A request on its way to an engine, and what the portal changes in it."""

import hmac
from typing import Protocol

import msgspec

from inference.body import Body
from inference.endpoints.base import Endpoint
from inference.errors import ApiError
from inference.routing import Caller, Route
from vllm_portal.secret_keys import secret_key


class Call:
    """What a caller wants of an engine."""

    __slots__ = ("body", "caller", "endpoint", "name", "own_id", "request_id", "route")

    def __init__(
        self,
        caller: Caller,
        route: Route,
        endpoint: Endpoint,
        body: Body,
        request_id: str,
        name: str | None = None,
        own_id: bool = False,
    ) -> None:
        """`name`: what the engine was found by; None: by its id, or as the only one: no other will do then. `own_id`:
        `request_id` is the portal's and was given to nothing else: the record has it, too."""
        self.caller = caller
        self.route = route
        self.endpoint = endpoint
        self.body = body
        self.request_id = request_id
        self.name = name
        self.own_id = own_id


class Client(Protocol):
    """Where the answer goes: `start` and then `write`, or `answer` or `fail` alone. None of them may raise or call the
    exchange. A client that cannot take more says `pause` to its exchange, then `resume`; one that leaves, `abandon`.
    `lines`: header lines beside the usual ones, each with its CRLF."""

    def start(self, lines: bytes) -> None:
        """200 and an event stream, which `write` brings."""

    def write(self, data: bytes, more: bool) -> None: ...

    def answer(self, data: bytes, lines: bytes) -> None:
        """200 and JSON, whole: in the place of `start` and `write`."""

    def fail(self, error: ApiError) -> None: ...

    def break_off(self, error: ApiError) -> None:
        """In mid-stream: in the place of the last `write`."""


def about(call: Call) -> bytes:
    """What a record says of the engine and what was asked of it, as members of a JSON object."""
    route, path, streamed = call.route, call.endpoint.path, call.body.stream
    known = route.about.get((path, streamed))
    if known is None:
        told = {"engine_id": route.engine_id, "model": route.title, "path": path, "streamed": streamed}
        known = route.about[path, streamed] = msgspec.json.encode(told)[1:-1]
    return known


def prepare(call: Call, granted: int) -> None:
    """Makes the body what the engine is to get. `granted`: the generated tokens that are reserved."""
    body, route = call.body, call.route
    call.endpoint.limit(body, granted, route.max_model_len)
    if body.model != route.model and body.model != route.name and (call.name is not None or route.adapter):
        body.set("model", route.model)  # an alias, or an adapter's full name: the engine does not know it
    if body.stream:
        body.known = route.known
    if (route.shared or route.users) and call.endpoint.generates:
        body.set("cache_salt", cache_salt(call.caller.user_id))


def unprepare(call: Call) -> None:
    """Takes back what `prepare` did for an engine, before the call goes to another one."""
    call.body.leave("model", "cache_salt", "min_tokens", call.body.max_tokens_field)


_MOST_SALTS = 10_000
_salts: dict[int, str] = {}


def cache_salt(user_id: int) -> str:
    """vLLM uses a cached prefix again only for the same salt. Without one, the time to the first token would tell the
    users of a shared engine what others have asked."""
    salt = _salts.get(user_id)
    if salt is None:
        if len(_salts) >= _MOST_SALTS:
            _salts.clear()
        salt = hmac.new(secret_key("cache-salt").encode(), b"%d" % user_id, "sha256").hexdigest()[:32]
        _salts[user_id] = salt
    return salt
