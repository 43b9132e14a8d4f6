"""The data plane's front: a small ASGI application for the inference paths; all others go to `fallback` (Django).

    /v1/…, /v2/rerank                       what the engine offers (`inference.endpoints`), and /v1/models
    /chat/completions, /tokenize, /rerank … the same without /v1, as clients of other servers ask for them
    /v1/responses/<id>                      what the portal keeps of them (`inference.responses_memory`)
    /engines/<id>/…                         the same, addressed to one engine

Each with and without a trailing slash. No middleware, no ORM, no session: who calls, what they may spend and where it
goes is in memory or one round trip to Redis.
"""

import asyncio
import gc
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

import msgspec

from inference import responses_memory
from inference.call import Call
from inference.client import Receive, Reply, Send
from inference.endpoints import CHAT, ENDPOINTS, MESSAGES, RESPONSES, Endpoint
from inference.errors import ApiError, Asleep, InvalidRequest, ModelNotFound, WrongMethod, restarting
from inference.gateway import Gateway, gateway
from inference.limits import Revoked
from inference.model_list import listed, models_of
from inference.routing import Caller
from vllm_portal.config import get_config
from vllm_portal.ids import accepted_id
from vllm_portal.log import request_id

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_ENGINE = re.compile(r"/engines/([0-9a-f-]{36})(/.+)\Z")
_MODELS = "/v1/models"
_RESPONSES = "/v1/responses/"
# An engine offers some of its endpoints with /v1 and some without; here it does not matter.
_PATHS = {path.removeprefix("/v1"): path for path in [_MODELS, *ENDPOINTS]} | {
    "/v1" + path.removeprefix("/v1"): path for path in [_MODELS, *ENDPOINTS] if not path.startswith("/v2")
}
_PATHS |= {path: path for path in ENDPOINTS}
# The URL of an engine as /vllm_request/start gives it. Clients take it for a base_url and add a path.
_GIVEN = "/v1/completions/"


class ClientGone(Exception):
    """The client left before its request was complete."""


class DataPlane:
    def __init__(self, fallback: Application, at_end: Callable[[], None] | None = None) -> None:
        self._fallback = fallback
        self._at_end = at_end
        self._max_body_bytes = get_config().max_body_bytes
        self._plane: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path: str = scope["path"]
        ours = path.startswith(("/v1", "/engines/", "/responses/")) or path.rstrip("/") in _PATHS
        if scope["type"] != "http" or not ours:
            await self._django(scope, receive, send)
            return
        engine_id = None
        if path.startswith("/engines/"):
            found = _ENGINE.match(path)
            engine_id, path = (found[1], found[2]) if found else ("", path)
        await self._answer(scope, receive, send, _canonical(path), engine_id)

    async def _django(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Django reads a body whole before it looks at it; here it is cut off at the largest size, by bytes counted."""
        size = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            # Django then gives the request up and answers nothing.
            return message if size <= self._max_body_bytes else {"type": "http.disconnect"}

        if _declared_length(dict(scope.get("headers", ()))) <= self._max_body_bytes:
            await self._fallback(scope, counted, send)
            if size <= self._max_body_bytes:
                return
        data = b'{"detail": "The body is larger than %d bytes."}' % self._max_body_bytes
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._plane = await gateway()
                _spare_the_collector()
                await send({"type": "lifespan.startup.complete"})
            else:
                if self._plane:
                    await self._plane.stop()
                    self._plane = None
                if self._at_end:
                    self._at_end()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _answer(self, scope: Scope, receive: Receive, send: Send, path: str, engine_id: str | None) -> None:
        headers = dict(scope["headers"])
        identity = accepted_id(headers.get(b"x-request-id", b"").decode("ascii", "replace"))
        token = request_id.set(identity)
        plane = self._plane or await gateway()
        endpoint = ENDPOINTS.get(path)
        # Who speaks Anthropic's language is answered in it, whatever the path.
        speaker = endpoint or (MESSAGES if b"anthropic-version" in headers else CHAT)
        reply = Reply(send, identity, speaker.identity_headers, plane.loop)
        try:
            await self._dispatch(plane, scope["method"], path, endpoint, engine_id, headers, receive, reply, identity)
        except ApiError as error:
            await _refuse(reply, speaker, error)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if not reply.gone:  # the portal stops, and this had its time
                await _refuse(reply, speaker, restarting())
            raise
        except Exception:
            logger.exception("a request failed in the portal itself")
            error = ApiError("The portal failed; its operator finds the cause in the log.")
            await _refuse(reply, speaker, error)
        finally:
            request_id.reset(token)

    async def _dispatch(
        self,
        plane: Gateway,
        method: str,
        path: str,
        endpoint: Endpoint | None,
        engine_id: str | None,
        headers: dict[bytes, bytes],
        receive: Receive,
        reply: Reply,
        identity: str,
    ) -> None:
        authorization = _authorization(headers)
        caller = await plane.callers.identify(authorization)
        if endpoint is None and path.startswith(_RESPONSES):
            caller = _allowed(await plane.callers.identify_anew(authorization))  # as in _models
            about = path.removeprefix(_RESPONSES)
            await reply.json(msgspec.Raw(await responses_memory.answer_about(plane, caller, method, about)))
            return
        if endpoint is None:
            await self._models(method, path, engine_id, authorization, b"anthropic-version" in headers, plane, reply)
            return
        if method != "POST":
            raise WrongMethod(method, "POST")
        data = await self._read(headers, receive)
        try:
            await self._serve(plane, _allowed(caller), endpoint, engine_id, data, receive, reply, identity)
        except Revoked:
            fresh = await plane.callers.identify_anew(authorization)
            if fresh == caller:
                raise
            # What was known of the caller was old: a key that was changed, not revoked.
            await self._serve(plane, _allowed(fresh), endpoint, engine_id, data, receive, reply, identity)

    async def _serve(
        self,
        plane: Gateway,
        caller: Caller,
        endpoint: Endpoint,
        engine_id: str | None,
        data: bytes,
        receive: Receive,
        reply: Reply,
        identity: str,
    ) -> None:
        body = endpoint.parse(data)
        name = body.model if engine_id is None else None
        try:
            route = await plane.find(caller, engine_id, body.model, body)
        except Asleep as asleep:
            serving = self._serve_later(plane, Call(caller, asleep.route, endpoint, body, identity, name), reply)
        else:
            serving = self._serve_now(plane, Call(caller, route, endpoint, body, identity, name), reply)
        await reply.until_gone(serving, receive)

    async def _serve_now(self, plane: Gateway, call: Call, reply: Reply) -> None:
        """By an engine that was awake a moment ago."""
        body = call.body
        try:
            await _serving(plane, call, reply)
        except Asleep as asleep:
            call.route, call.body = asleep.route, body
            await self._serve_later(plane, call, reply)

    async def _serve_later(self, plane: Gateway, call: Call, reply: Reply) -> None:
        """By an engine that has to wake first. Who waits for a stream hears how far it is."""
        await plane.wakes.hold(call, reply.comment if call.body.stream else None)
        engine_id = call.route.engine_id if call.name is None else None
        call.route = await plane.find(call.caller, engine_id, call.name, call.body)
        await _serving(plane, call, reply)

    async def _models(
        self,
        method: str,
        path: str,
        engine_id: str | None,
        authorization: bytes,
        anthropic: bool,
        plane: Gateway,
        reply: Reply,
    ) -> None:
        if path != _MODELS and not path.startswith("/v1/models/"):
            raise InvalidRequest("There is no such endpoint; /api/docs/ lists them.", status=404, code="not_found")
        if method not in ("GET", "HEAD"):
            raise WrongMethod(method, "GET, HEAD")
        # Nothing is admitted here that would check whether the token still counts, so the database is asked.
        caller = await plane.callers.identify_anew(authorization)
        routes = plane.usable_by(caller)
        if engine_id is not None:
            routes = [route for route in routes if route.engine_id == engine_id] or [plane.engine(caller, engine_id)]
        models = models_of(routes, plane.routes.aliases, anthropic, caller.user_id)
        if path == _MODELS:
            await reply.json(listed(models, anthropic))
            return
        name = path.removeprefix("/v1/models/")
        if name not in models:
            raise ModelNotFound(f"The model `{name[:200]}` does not exist or you may not use it.", param="model")
        await reply.json(models[name])

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The request's body. Raises InvalidRequest when it is too large, counted in bytes that came."""
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise InvalidRequest("Send the body uncompressed.", status=415, code="unsupported_encoding")
        if _declared_length(headers) > self._max_body_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_body_bytes:
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> InvalidRequest:
        message = f"The body is larger than {self._max_body_bytes} bytes."
        return InvalidRequest(message, status=413, code="request_too_large")


def _serving(plane: Gateway, call: Call, reply: Reply) -> Coroutine[Any, Any, None]:
    if call.endpoint is RESPONSES:
        return responses_memory.serve(plane, call, reply)
    return plane.relay.serve(call, reply)


def _spare_the_collector() -> None:
    """What has been loaded by now stays: the garbage collector need not walk all of Django again and again, which
    would hold every stream up for a tenth of a second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _declared_length(headers: dict[bytes, bytes]) -> int:
    """The body's length as the client declares it; 0 where it does not."""
    declared = headers.get(b"content-length", b"")
    return int(declared) if declared.isdigit() else 0


def _canonical(path: str) -> str:
    """The path at the engine; of an unknown one, itself without its trailing slash."""
    path = path.rstrip("/")
    if path.startswith(_GIVEN) and path not in _PATHS:
        path = path.removeprefix(_GIVEN.rstrip("/"))
    return _PATHS.get(path) or ("/v1" + path if path.startswith(("/models/", "/responses/")) else path)


def _authorization(headers: dict[bytes, bytes]) -> bytes:
    """The Authorization header's value, or what it would be: Anthropic's clients send their key as x-api-key."""
    key = headers.get(b"x-api-key")
    given = headers.get(b"authorization", b"")
    return b"Bearer " + key if key and not given else given


def _allowed(caller: Caller) -> Caller:
    """Raises InvalidRequest for a key that is not for engines."""
    if not caller.may_infer:
        message = "This API key lacks the scope inference: it may not call engines."
        raise InvalidRequest(message, status=403, code="insufficient_permissions")
    return caller


async def _refuse(reply: Reply, endpoint: Endpoint, error: ApiError) -> None:
    """In the client's dialect, into the answer, or into its stream if that has begun."""
    if reply.started:
        await reply.send(endpoint.error_event(error), more=False)
        return
    data = endpoint.error(error)
    await reply.start(error.status, [*error.headers(), (b"content-length", b"%d" % len(data))])
    await reply.send(data, more=False)
