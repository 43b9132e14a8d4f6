"""`/v1/responses` with a memory. Engines keep no responses: the portal puts the turns before `previous_response_id` in
front of `input`, and stores the new turn when the engine has said its last word about it.

    POST /v1/responses          serve: prepare ─ the relay, as any request ─ Remembering ─ client
    GET, DELETE …/<id>          answer_about

The turn is stored before the client gets the end of its answer, so that its next request finds it. A client that
leaves before that leaves nothing behind. The database is used for moments, never while the engine works.
"""

import logging
import uuid
from typing import Any, NoReturn

import msgspec
from django.db import DatabaseError
from django.utils import timezone

from inference import responses, responses_items
from inference.body import Body
from inference.call import Call
from inference.endpoints.base import Endpoint
from inference.errors import InvalidRequest, TryLater, WrongMethod
from inference.gateway import Gateway
from inference.history import newest_that_fit
from inference.relay import AsyncClient
from inference.responses import Past
from inference.routing import Caller, Route
from inference.upstream import Headers
from vllm_portal.errors import NotFound

logger = logging.getLogger(__name__)

Raw = msgspec.Raw
_encode = msgspec.json.encode
_NULL = b"null"
_NO_PREVIOUS = b'"previous_response_id":null'
_LAST_EVENTS = (b"event: response.completed\n", b"event: response.incomplete\n")
_WHOLE = ("completed", "incomplete")


class _Response(msgspec.Struct):
    id: str
    status: str = "completed"
    output: list[Raw] = []


class _LastEvent(msgspec.Struct):
    response: Raw


async def serve(plane: Gateway, call: Call, client: AsyncClient) -> None:
    """As the relay's."""
    asked = call.body
    call.body, memory = await prepare(plane, call.caller, call.route, call.endpoint, asked)
    if call.body is not asked and call.name is not None:
        # Only now is it known how the conversation begins, and so which engine has worked on it.
        call.route = plane.routes.model(call.caller, call.name, call.body)
    await plane.relay.serve(call, Remembering(client, memory) if memory else client)


async def answer_about(plane: Gateway, caller: Caller, method: str, response_id: str) -> bytes:
    """The JSON to answer GET or DELETE of one response with. The caller must have been looked up just now: no
    admission checks them. Raises ApiError."""
    if method in ("GET", "HEAD"):
        return await retrieve(plane, caller, response_id)
    if method == "DELETE":
        return await delete(plane, caller, response_id)
    raise WrongMethod(method, "GET, HEAD, DELETE")


async def prepare(
    plane: Gateway, caller: Caller, route: Route, endpoint: Endpoint, body: Body
) -> tuple[Body, "Memory | None"]:
    """The body that the engine is to get, and what to do with its answer; None: nothing. Raises ApiError."""
    previous_id = body.value("previous_response_id", str)
    stored = body.value("store", bool) is not False
    if not _missing(body, "conversation"):
        raise InvalidRequest(
            "conversation is not supported; go on with previous_response_id.",
            param="conversation",
            code="unsupported_parameter",
        )
    if previous_id is None and not stored:
        return body, None
    past = await _recall(plane, caller, previous_id) if previous_id is not None else None
    items = [] if _missing(body, "input") else responses_items.of_input(bytes(body.fields["input"]))
    if past and items:
        body = await _with_history(plane, route, endpoint, body, past.turns, items)
    body.drop("previous_response_id")
    body.set("store", False)
    if stored:
        # Unique for certain; an engine that was started with a seed might use one twice.
        body.set("request_id", f"resp_{uuid.uuid4().hex}")
    return body, Memory(plane, caller.user_id, previous_id, past, items, stored)


async def retrieve(plane: Gateway, caller: Caller, response_id: str) -> bytes:
    """The response object as its client got it. Raises ApiError."""
    try:
        return (await plane.in_database(responses.body_of, caller.user_id, response_id)).encode()
    except NotFound as error:
        raise InvalidRequest(str(error), status=404, code="response_not_found") from None
    except DatabaseError as error:
        _unavailable(error)


async def delete(plane: Gateway, caller: Caller, response_id: str) -> bytes:
    """With its turn. Gives OpenAI's answer to that. Raises ApiError."""
    try:
        await plane.in_database(responses.delete, caller.user_id, response_id)
    except NotFound as error:
        raise InvalidRequest(str(error), status=404, code="response_not_found") from None
    except DatabaseError as error:
        _unavailable(error)
    return _encode({"id": response_id, "object": "response", "deleted": True})


class Memory:
    """What is to be remembered of one request."""

    def __init__(
        self, plane: Gateway, user_id: int, previous_id: str | None, past: Past | None, items: list[Raw], stored: bool
    ) -> None:
        self._plane = plane
        self._user_id = user_id
        self._past = past
        self._items = items
        self._stored = stored
        self._named = b'"previous_response_id":' + _encode(previous_id) if previous_id is not None else b""

    def naming_previous(self, data: bytes) -> bytes:
        """The engine was not told what its answer goes on from; the client was promised to hear it. Within JSON these
        bytes are always a key, since a quote inside a string is escaped."""
        return data.replace(_NO_PREVIOUS, self._named) if self._named else data

    async def keep(self, body: bytes) -> None:
        """Stores the turn that this response object ends. That this fails is no reason to withhold an answer that was
        paid for: it goes to the log, and the client's next request will say that it does not know the response."""
        if not self._stored:
            return
        try:
            response = msgspec.json.decode(body, type=_Response)
            if response.status not in _WHOLE:
                return
            output = responses_items.of_output(response.output)
            *before, now = responses_items.split(self._items)
            turns = [responses_items.turn_of(turn) for turn in [*before, [*now, *output]]]
            kept = await self._plane.in_database(
                responses.store, self._user_id, self._past, turns, response.id, body.decode(), timezone.now()
            )
            if not kept:
                logger.info("a response goes on from one that was deleted meanwhile, and is not kept")
        except (msgspec.DecodeError, UnicodeDecodeError, DatabaseError) as error:
            logger.error("a response could not be kept: %s", error)


class Remembering:
    """A client that gets what the engine answers, and whose answer is remembered."""

    def __init__(self, client: AsyncClient, memory: Memory) -> None:
        self._client = client
        self._memory = memory
        self._status = 200
        self._head: Headers | None = None
        """Of a whole answer: waits for its body, whose length may change."""
        self._parts: list[bytes] = []
        self._event = b""

    async def start(self, status: int, headers: Headers) -> None:
        streamed = any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
        if status == 200 and not streamed:
            self._head = headers
            return
        self._status = status
        await self._client.start(status, headers)

    async def send(self, data: bytes, *, more: bool = True) -> None:
        if self._head is None:
            if self._status == 200:
                data = self._memory.naming_previous(data)
                await self._look_for_the_end(data)
            await self._client.send(data, more=more)
            return
        self._parts.append(data)
        if more:
            return
        body = self._memory.naming_previous(b"".join(self._parts))
        await self._memory.keep(body)
        length = (b"content-length", b"%d" % len(body))
        await self._client.start(200, [*((name, value) for name, value in self._head if name != length[0]), length])
        await self._client.send(body, more=False)

    async def _look_for_the_end(self, data: bytes) -> None:
        """Events come whole, as a rule; the beginning of one waits here, though not for the client."""
        *events, self._event = (self._event + data).split(b"\n\n")
        for event in events:
            if event.startswith(_LAST_EVENTS):
                await self._memory.keep(_response_in(event))


def _response_in(event: bytes) -> bytes:
    """b"" where there is none."""
    _, _, data = event.partition(b"\ndata: ")
    try:
        return bytes(msgspec.json.decode(data, type=_LastEvent).response)
    except msgspec.DecodeError:
        return b""


async def _recall(plane: Gateway, caller: Caller, response_id: str) -> Past:
    try:
        return await plane.in_database(responses.recall, caller.user_id, response_id)
    except NotFound:
        raise InvalidRequest(
            f"Previous response with id '{response_id[:100]}' not found.",
            status=404,
            code="previous_response_not_found",
            param="previous_response_id",
        ) from None
    except DatabaseError as error:
        _unavailable(error)


async def _with_history(
    plane: Gateway, route: Route, endpoint: Endpoint, body: Body, turns: list[str], items: list[Raw]
) -> Body:
    """The oldest turns stay out where the context is too short for all, unless the client asked to be told of that
    (`truncation` "disabled"). The answer is left as much as it wants, up to half of the context."""
    fields = {name: raw for name, raw in body.fields.items() if name != "previous_response_id"}
    ours = _encode(items).decode()

    def with_turns(kept: list[str]) -> Body:
        together = responses_items.joined([*kept, ours])
        return endpoint.parse(_encode({**fields, "input": Raw(together.encode())}))

    async def count(kept: list[str]) -> int:
        tokens = 0
        for one in _countable(endpoint, with_turns(kept), route):
            tokens += one if isinstance(one, int) else await plane.relay.tokenize(route, one)
        return tokens

    if body.value("truncation", str) == "disabled":
        return with_turns(turns)
    context = route.max_model_len
    wanted = context // 4 if body.max_tokens is None else min(body.max_tokens, context // 2)
    sizes = [len(turn.encode()) for turn in turns]
    fit = await newest_that_fit(turns, sizes, endpoint.prompt_bound(body, context), context - wanted, count)
    return with_turns(fit)


def _countable(endpoint: Endpoint, body: Body, route: Route) -> list[dict[str, Any] | int]:
    """What to ask the tokenizer. How a model writes calls of tools is known to the engine alone: their JSON stands in
    for it, which is longer, if anything. Pictures cannot be counted at all: all is sent, and the engine decides."""
    requests = endpoint.token_counts(body, route)
    if requests is None and body.text_only:
        told = b"\n".join(
            bytes(body.fields[name]) for name in ("instructions", "tools", "input") if name in body.fields
        )
        requests = [{"model": route.model, "prompt": told.decode(errors="replace")}]
    return requests or []


def _missing(body: Body, name: str) -> bool:
    return name not in body.fields or bytes(body.fields[name]) == _NULL


def _unavailable(error: DatabaseError) -> NoReturn:
    logger.error("responses cannot be read or written: %s", error)
    raise TryLater("The portal cannot reach its memory now.", status=503, code="unavailable", retry_after_s=2) from None
