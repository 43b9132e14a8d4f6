"""One request on its way: reserve, forward, pass the answer on, settle.

Whatever ends it (the answer's end, the engine's failure, the client's leaving, which is a cancellation here), the
reservation is settled once and the engine's connection released, which makes vLLM stop working on it.
"""

import asyncio
import logging
from functools import partial
from typing import Protocol

import msgspec

from inference.admission import Admission, PromptTooLarge, Reservation
from inference.body import Kind, prompt_bound
from inference.call import Call, prepare
from inference.errors import ApiError, EngineError, LimitReached, TryLater, from_engine
from inference.routing import Route
from inference.sse import BadStream, Filter, Usage, answer_usage
from inference.upstream import CannotConnect, Connection, Pool, TimedOut, Timeouts, UpstreamError

logger = logging.getLogger(__name__)

MAX_ERROR_BYTES = 2**20
MAX_ANSWER_BYTES = 256 * 2**20
MAX_COUNTED_PROMPTS = 64
_JSON = b"application/json"

Headers = list[tuple[bytes, bytes]]


class Client(Protocol):
    """Where the answer goes. Each call returns when the client has taken (most of) what it was given. A client that
    leaves, or takes nothing for too long, cancels the task that serves it."""

    async def start(self, status: int, headers: Headers) -> None: ...

    async def send(self, data: bytes, *, more: bool = True) -> None: ...


class Relay:
    """Forwards requests for one event loop."""

    def __init__(self, admission: Admission, pool: Pool, timeouts: Timeouts) -> None:
        self._admission = admission
        self._pool = pool
        self._timeouts = timeouts
        self._loop = pool.loop
        self._background: set[asyncio.Task[None]] = set()

    async def serve(self, call: Call, client: Client) -> None:
        """Raises ApiError when nothing has been sent to the client yet; later errors go into the stream."""
        reservation = await self._reserve(call)
        prepare(call, reservation.generated_tokens)
        call.route.in_flight += 1
        connection: Connection | None = None
        try:
            connection = await self._post(call.route, call.path, call.body.encode(), call.request_id)
            status = await connection.head()
            if status != 200:
                raise from_engine(status, await connection.read(MAX_ERROR_BYTES))
            if call.body.stream and connection.header(b"content-type").startswith(b"text/event-stream"):
                await self._stream(call, reservation, connection, client)
            else:
                await self._whole(call, reservation, connection, client)
        except asyncio.CancelledError:
            self._settle_abandoned(call, reservation)
            raise
        except ApiError as error:
            refused = error.status < 500
            self._settle(reservation, outcome="refused" if refused else "failed", exact=refused)
            raise
        except UpstreamError as error:
            self._settle(reservation, outcome="failed", exact=False)
            raise _engine_error(error) from None
        finally:
            call.route.in_flight -= 1
            if connection:
                connection.release()

    # Reserving

    async def _reserve(self, call: Call) -> Reservation:
        bound = prompt_bound(call.body, call.route.max_model_len)
        try:
            return await self._hold(call, bound)
        except PromptTooLarge as refusal:
            # The bound is several times the real size of most prompts; this near the limit the engine counts.
            if refusal.left <= 0 or not call.body.text_only:
                raise
            exact = await self.count_prompt(call)
            if exact > refusal.left:
                raise LimitReached(
                    f"The prompt has {exact} tokens, and {refusal.left} prompt tokens are left of your limit. "
                    "An admin can raise it."
                ) from None
            try:
                return await self._hold(call, exact)
            except PromptTooLarge:
                raise TryLater("Your other requests hold the rest of your prompt tokens.", retry_after_s=1) from None

    async def _hold(self, call: Call, prompt_tokens: int) -> Reservation:
        body, route = call.body, call.route
        wanted = 0
        if call.kind is not Kind.EMBEDDING:
            each = route.max_model_len if body.max_tokens is None else min(body.max_tokens, route.max_model_len)
            wanted = each * body.choices
        return await self._admission.reserve(
            user_id=call.caller.user_id,
            token_version=call.caller.token_version,
            prompt_tokens=prompt_tokens,
            generated_tokens=wanted,
            step=body.choices,
            meta={
                "engine_id": route.engine_id,
                "model": route.model,
                "path": call.path,
                "streamed": body.stream,
                "started_ms": self._admission.now_ms(),
            },
        )

    async def count_prompt(self, call: Call) -> int:
        """The prompt's tokens, counted by the engine's own tokenizer and template. Raises ApiError."""
        fields = call.body.fields
        if call.kind is Kind.CHAT:
            names = ("model", "messages", "tools", "chat_template_kwargs", "add_generation_prompt")
            return await self.tokenize(call.route, {name: fields[name] for name in names if name in fields})
        text = fields.get("prompt" if call.kind is Kind.COMPLETION else "input", msgspec.Raw(b'""'))
        texts = msgspec.json.decode(text, type=list[msgspec.Raw]) if call.body.prompts > 1 else [text]
        total = 0
        for one in texts[:MAX_COUNTED_PROMPTS]:
            raw = bytes(one).strip()
            if raw.startswith(b"["):
                inner = msgspec.json.decode(raw, type=list[msgspec.Raw])
                if inner and bytes(inner[0])[:1] == b'"':
                    raw = bytes(inner[0])
                else:
                    total += len(inner)  # token ids
                    continue
            total += await self.tokenize(call.route, {"model": call.route.model, "prompt": msgspec.Raw(raw)})
        if len(texts) > MAX_COUNTED_PROMPTS:
            raise LimitReached("This many prompts do not fit what may be left of your limit; send fewer at once.")
        return total

    async def tokenize(self, route: Route, request: dict[str, object]) -> int:
        """How many tokens the engine makes of `prompt` or `messages`. Raises ApiError."""
        connection: Connection | None = None
        try:
            connection = await self._post(route, "/tokenize", msgspec.json.encode(request), "-")
            status = await connection.head()
            data = await connection.read(MAX_ANSWER_BYTES)
        except UpstreamError as error:
            raise _engine_error(error) from None
        finally:
            if connection:
                connection.release()
        if status != 200:
            raise from_engine(status, data)
        try:
            return msgspec.json.decode(data, type=_Tokenized).count
        except msgspec.DecodeError:
            raise EngineError("The engine's token count cannot be read.") from None

    # Forwarding

    async def _post(self, route: Route, path: str, body: bytes, request_id: str) -> Connection:
        """Nothing of the client's own headers goes on but its request id, which has been checked."""
        head = route.heads.get(path)
        if head is None:
            head = route.heads[path] = (
                b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\nauthorization: %b\r\n"
                % (path.encode(), route.authorization)
            )
        head += b"x-request-id: %b\r\n" % request_id.encode()
        return await self._pool.post(route.address, head, body, self._timeouts)

    async def _whole(self, call: Call, reservation: Reservation, connection: Connection, client: Client) -> None:
        data = await connection.read(MAX_ANSWER_BYTES)
        usage = answer_usage(data)
        if usage is None and connection.header(b"content-type")[:16] != _JSON:
            raise EngineError("The engine's answer is not JSON.")
        self._learn_speed(call.route, usage, reservation)
        self._settle(reservation, usage=usage, outcome="completed", exact=usage is not None)
        headers = [(b"content-type", _JSON), (b"content-length", b"%d" % len(data))]
        await client.start(200, headers)
        await client.send(data, more=False)

    async def _stream(self, call: Call, reservation: Reservation, connection: Connection, client: Client) -> None:
        body = call.body
        stream = Filter(
            keep_usage=body.keep_usage,
            keep_continuous=body.keep_continuous,
            choices=body.choices,
            choices_per_prompt=body.choices_per_prompt,
        )
        first_token_ms: int | None = None
        reservation.seen = partial(_counts, stream, reservation.generated_tokens)
        await client.start(
            200, [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        )
        try:
            while data := await connection.next():
                data = stream.feed(data)
                if first_token_ms is None:
                    first_token_ms = int((self._loop.time() - reservation.started) * 1000)
                if stream.done:
                    self._settle_stream(reservation, stream, first_token_ms)
                if data:
                    await client.send(data)
            if not stream.done:
                raise UpstreamErrorInStream("The engine broke off its answer.")
        except (UpstreamError, BadStream) as error:
            self._settle_stream(reservation, stream, first_token_ms)
            failure = EngineError(str(error)) if isinstance(error, BadStream) else _engine_error(error)
            logger.warning("engine %s failed in mid-stream: %s", call.route.name, error)
            await client.send(b"data: " + failure.body() + b"\n\n", more=False)
            return
        await client.send(stream.finish(), more=False)

    # Settling

    def _settle_stream(self, reservation: Reservation, stream: Filter, first_token_ms: int | None) -> None:
        whole = stream.done and not stream.failed
        usage = _usage(stream)
        if usage is None and not whole:
            usage = Usage()
        self._settle(
            reservation,
            usage=usage,
            outcome="completed" if whole else "failed",
            exact=stream.final and usage is not None,
            first_token_ms=first_token_ms,
        )

    def _settle_abandoned(self, call: Call, reservation: Reservation) -> None:
        """The client left. A stream has its count from its first chunk on; before that, and of an answer that was to
        come whole, the prompt is counted by the engine's tokenizer and the generated tokens are estimated from the
        engine's speed."""
        if reservation.settled:
            return
        prompt, generated = reservation.seen()
        if prompt:
            self._settle(reservation, usage=Usage(prompt, generated), outcome="aborted", exact=True)
            return
        elapsed_s = 0.0 if call.body.stream else self._loop.time() - reservation.started
        generated = min(int(elapsed_s * call.route.tokens_per_s), reservation.generated_tokens)

        async def settle() -> None:
            try:
                prompt = await self.count_prompt(call)
            except ApiError:
                prompt = reservation.prompt_tokens
            self._settle(reservation, usage=Usage(prompt, generated), outcome="aborted", exact=False)

        task = asyncio.create_task(settle())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _settle(
        self,
        reservation: Reservation,
        *,
        usage: Usage | None = None,
        outcome: str,
        exact: bool,
        first_token_ms: int | None = None,
    ) -> None:
        """None as usage: of a completed answer the reservation is charged, of any other nothing."""
        if usage is None:
            held = Usage(reservation.prompt_tokens, reservation.generated_tokens)
            usage = held if outcome == "completed" else Usage()
        generated = min(max(usage.generated_tokens, 0), reservation.generated_tokens)
        prompt = max(usage.prompt_tokens, 0)
        if prompt > reservation.prompt_tokens * 2 + 4096:
            logger.error("the engine claims a prompt of %d tokens; charging the reservation", prompt)
            prompt, exact = reservation.prompt_tokens, False
        if generated != usage.generated_tokens:
            logger.error("the engine claims %d generated tokens of %d", usage.generated_tokens, generated)
            exact = False
        self._admission.settle(
            reservation,
            prompt_tokens=prompt,
            generated_tokens=generated,
            cached_tokens=usage.cached_tokens,
            outcome=outcome,
            exact=exact,
            first_token_ms=first_token_ms,
        )

    def _learn_speed(self, route: Route, usage: Usage | None, reservation: Reservation) -> None:
        elapsed_s = self._loop.time() - reservation.started
        if usage and usage.generated_tokens and elapsed_s > 0:
            seen = usage.generated_tokens / elapsed_s
            route.tokens_per_s = seen if not route.tokens_per_s else 0.9 * route.tokens_per_s + 0.1 * seen


def _usage(stream: Filter) -> Usage | None:
    """The latest counts, None where there are none or they are no counts."""
    try:
        return stream.usage()
    except BadStream as error:
        logger.error("an engine's count cannot be read: %s", error)
        return None


def _counts(stream: Filter, most: int) -> tuple[int, int]:
    usage = _usage(stream)
    return (usage.prompt_tokens, min(usage.generated_tokens, most)) if usage else (0, 0)


class UpstreamErrorInStream(UpstreamError):
    """The stream ended without its [DONE]."""


class _Tokenized(msgspec.Struct):
    count: int


def _engine_error(error: UpstreamError) -> EngineError:
    if isinstance(error, TimedOut):
        return EngineError(f"Timed out: {error}.", status=504, code="engine_timeout")
    if isinstance(error, CannotConnect):
        return EngineError("The engine cannot be reached.", status=503, code="engine_unavailable", retry_after_s=2)
    return EngineError(f"{error}.")
