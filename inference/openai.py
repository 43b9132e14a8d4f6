"""The data plane's front: a small ASGI application for the inference paths; all others go to `fallback` (Django).

    /v1/models, /v1/models/<name>, /v1/chat/completions, /v1/completions, /v1/embeddings
    /chat/completions                       the same as /v1/chat/completions
    /engines/<id>/v1/…                      the same, addressed to one engine

Each with and without a trailing slash. No middleware, no ORM, no session: who calls, what they may spend and where it
goes is in memory or one round trip to Redis.
"""

import gc
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from inference.body import Kind, parse
from inference.call import Call
from inference.client import Receive, Reply, Send
from inference.errors import ApiError, InvalidRequest, ModelNotFound
from inference.gateway import Gateway, gateway
from inference.routing import Route
from vllm_portal.config import get_config
from vllm_portal.log import accepted_id, request_id

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

KINDS = {
    "/v1/chat/completions": Kind.CHAT,
    "/v1/completions": Kind.COMPLETION,
    "/v1/embeddings": Kind.EMBEDDING,
}
_ENGINE = re.compile(r"/engines/([0-9a-f-]{36})(?:/v1)?(/.+)\Z")


class ClientGone(Exception):
    """The client left before its request was complete."""


class DataPlane:
    def __init__(self, fallback: Application) -> None:
        self._fallback = fallback
        self._max_body_bytes = get_config().max_body_bytes
        self._plane: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path: str = scope["path"]
        if scope["type"] != "http" or not path.startswith(("/v1/", "/chat/completions", "/engines/")):
            await self._django(scope, receive, send)
            return
        path = path.rstrip("/")
        engine_id = None
        if path.startswith("/engines/"):
            found = _ENGINE.match(path)
            engine_id, path = (found[1], "/v1" + found[2]) if found else ("", path)
        elif path == "/chat/completions":
            path = "/v1/chat/completions"
        await self._answer(scope, receive, send, path, engine_id)

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
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _answer(self, scope: Scope, receive: Receive, send: Send, path: str, engine_id: str | None) -> None:
        headers = dict(scope["headers"])
        identity = accepted_id(headers.get(b"x-request-id", b"").decode("ascii", "replace"))
        token = request_id.set(identity)
        plane = self._plane or await gateway()
        reply = Reply(send, identity, plane.watch, plane.loop)
        try:
            await self._dispatch(plane, scope["method"], path, engine_id, headers, receive, reply, identity)
        except ApiError as error:
            await reply.error(error)
        except ClientGone:
            return
        except Exception:
            logger.exception("a request failed in the portal itself")
            await reply.error(ApiError("The portal failed; its operator finds the cause in the log."))
        finally:
            request_id.reset(token)

    async def _dispatch(
        self,
        plane: Gateway,
        method: str,
        path: str,
        engine_id: str | None,
        headers: dict[bytes, bytes],
        receive: Receive,
        reply: Reply,
        identity: str,
    ) -> None:
        caller = await plane.callers.identify(headers.get(b"authorization", b""))
        kind = KINDS.get(path)
        if kind is None:
            await self._models(method, path, engine_id, headers, plane, reply)
            return
        if method != "POST":
            raise InvalidRequest(f"{method} is not allowed here; use POST.", status=405, code="method_not_allowed")
        body = parse(await self._read(headers, receive), kind)
        route = await plane.find(caller, engine_id, body.model)
        call = Call(caller, route, path, kind, body, identity)
        await reply.until_gone(plane.relay.serve(call, reply), receive)

    async def _models(
        self,
        method: str,
        path: str,
        engine_id: str | None,
        headers: dict[bytes, bytes],
        plane: Gateway,
        reply: Reply,
    ) -> None:
        if path != "/v1/models" and not path.startswith("/v1/models/"):
            raise InvalidRequest("There is no such endpoint; /api/docs/ lists them.", status=404, code="not_found")
        if method not in ("GET", "HEAD"):
            raise InvalidRequest(f"{method} is not allowed here; use GET.", status=405, code="method_not_allowed")
        # Nothing is admitted here that would check whether the token still counts, so the database is asked.
        plane.callers.forget_one(headers[b"authorization"])
        caller = await plane.callers.identify(headers[b"authorization"])
        routes = plane.routes.usable_by(caller) if engine_id is None else [plane.routes.engine(caller, engine_id)]
        models = _describe(routes)
        if path == "/v1/models":
            await reply.json({"object": "list", "data": list(models.values())})
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


def _describe(routes: list[Route]) -> dict[str, dict[str, Any]]:
    """OpenAI's model objects by name; engines of one model are one entry that names them."""
    models: dict[str, dict[str, Any]] = {}
    for route in sorted(routes, key=lambda route: (route.created, route.name)):
        entry = models.setdefault(
            route.model,
            {
                "id": route.model,
                "object": "model",
                "created": route.created,
                "owned_by": "vllm-portal",
                "max_model_len": route.max_model_len,
                "engines": [],
            },
        )
        entry["engines"].append(route.name)
    return models
