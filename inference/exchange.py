"""One request on its way: reserve, forward, pass the answer on, settle. Driven by what arrives, without a task.

    begin ─ RESERVING ─ SENT ─┬─ WHOLE ──┐
               │         │    ├─ STREAM ─┼─ ENDED
               └ refused ┴────┴──────────┘

Whatever ends it (the answer's end, the engine's failure, the client's leaving), the reservation is settled once and
the engine's connection is given back or closed, which makes vLLM stop working on it.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from inference.asking import Asking, Reservation, Verdict
from inference.call import Call, prepare
from inference.endpoints.base import StreamFilter
from inference.engine_errors import engine_error
from inference.errors import ApiError, EngineError, LimitReached, from_engine, restarting
from inference.limits import PromptTooLarge, rate_headers
from inference.sse import BadStream, Usage
from inference.upstream import Headers, Line, UpstreamError, header_of

if TYPE_CHECKING:
    from inference.relay import Relay

logger = logging.getLogger(__name__)

MAX_ERROR_BYTES = 2**20
MAX_ANSWER_BYTES = 256 * 2**20
JSON = b"application/json"
EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Client(Protocol):
    """Where the answer goes: `start` and then `write`, or `fail` alone. None of them may raise or call the exchange.
    A client that cannot take more says `pause` to its exchange, then `resume`; one that leaves says `abandon`."""

    def start(self, status: int, headers: Headers) -> None: ...

    def write(self, data: bytes, more: bool) -> None: ...

    def fail(self, error: ApiError) -> None: ...


class Exchange:
    """One request. Belongs to its event loop."""

    __slots__ = (
        "_asking", "_call", "_client", "_counting", "_first_token_ms", "_line", "_parts", "_paused", "_relay",
        "_reservation", "_size", "_started", "_status", "_stream", "ended",
    )  # fmt: skip

    def __init__(self, relay: "Relay", call: Call, client: Client) -> None:
        self._relay, self._call, self._client = relay, call, client
        self._asking: Asking | None = None
        self._counting: asyncio.Task[None] | None = None
        self._reservation: Reservation | None = None
        self._line: Line | None = None
        self._stream: StreamFilter | None = None
        self._status = self._size = 0
        self._parts: list[bytes] = []
        self._started = self._paused = False
        self._first_token_ms: int | None = None
        self.ended = False

    # What the client calls

    def begin(self) -> None:
        """Nothing is answered within this call."""
        self._relay.running.add(self)
        call = self._call
        self._ask(call.endpoint.prompt_bound(call.body, call.route.max_model_len), self._reserved)

    def pause(self) -> None:
        self._paused = True
        if self._line:
            self._line.pause()

    def resume(self) -> None:
        self._paused = False
        if self._line:
            self._line.resume()

    def break_off(self) -> None:
        """The portal stops before the answer has ended."""
        if not self.ended:
            self.abandon()
            self._tell(restarting())

    def abandon(self) -> None:
        """The client left. Settled are the counts that its stream has had so far; of an answer that was to come whole,
        or had not begun, the relay asks and estimates."""
        if self.ended:
            return
        if self._asking:
            self._asking.cancel()
        if self._counting:
            self._counting.cancel()
        reservation = self._reservation
        self._end()
        if reservation is None or reservation.settled:
            return
        prompt, generated = reservation.seen()
        stream = self._stream
        text = stream.text() if stream is not None else None
        if text is not None or not prompt:
            self._relay.settle_unseen(self._call, reservation, text, generated)
            return
        exact = stream is not None and (stream.counts_along or stream.final)
        self._relay.settle(reservation, usage=Usage(prompt, generated), outcome="aborted", exact=exact)

    # Reserving

    def _ask(self, prompt_tokens: int, done: Verdict) -> None:
        relay, call = self._relay, self._call
        body, route = call.body, call.route
        self._asking = relay.admission.ask(
            call.caller,
            done,
            prompt_tokens=prompt_tokens,
            generated_tokens=call.endpoint.wanted(body, route.max_model_len),
            step=body.choices,
            meta={
                "engine_id": route.engine_id,
                "model": route.model,
                "path": call.endpoint.path,
                "streamed": body.stream,
                "started_ms": relay.admission.now_ms(),
            },
        )

    def _reserved(self, answer: Reservation | ApiError) -> None:
        try:
            self._go_on(answer)
        except Exception as fault:
            self._crash(fault)

    def _go_on(self, answer: Reservation | ApiError) -> None:
        if isinstance(answer, Reservation):
            self._forward(answer)
        elif isinstance(answer, PromptTooLarge) and answer.left > 0 and self._call.body.text_only:
            # The bound is several times the real size of most prompts; this near the limit the engine counts.
            self._counting = self._relay.loop.create_task(self._count(answer.left))
        else:
            self._refuse(answer)

    async def _count(self, left: int) -> None:
        try:
            exact = await self._relay.count_prompt(self._call)
        except ApiError as error:
            self._refuse(error)
            return
        if exact > left:
            self._refuse(
                LimitReached(
                    f"The prompt has {exact} tokens, and {left} prompt tokens are left of your limit. "
                    "An admin can raise it."
                )
            )
            return
        self._ask(exact, self._counted)

    def _counted(self, answer: Reservation | ApiError) -> None:
        if isinstance(answer, Reservation):
            self._forward(answer)
        else:
            self._refuse(answer)

    def _refuse(self, error: ApiError) -> None:
        if not self.ended:
            self._end()
            self._client.fail(error)

    # Forwarding: what the connection to the engine calls

    def _forward(self, reservation: Reservation) -> None:
        self._asking = None
        self._reservation = reservation
        call = self._call
        prepare(call, reservation.generated_tokens)
        call.route.in_flight += 1
        self._line = self._relay.post(call.route, call.endpoint.path, call.body.encode(), call.request_id, self)
        if self._paused:
            self._line.pause()

    def head(self, status: int, headers: Headers) -> None:
        self._status = status
        if (
            status != 200
            or not self._call.body.stream
            or header_of(headers, b"content-type")[:17] != b"text/event-stream"
        ):
            return
        stream = self._stream = self._call.endpoint.stream(self._call.body)
        assert self._reservation is not None
        self._reservation.seen = lambda: _seen(stream)
        self._started = True
        self._client.start(200, [*EVENTS, *self._rates()])

    def data(self, data: bytes) -> None:
        stream = self._stream
        if stream is None:
            self._collect(data)
            return
        try:
            data = stream.feed(data)
        except BadStream as error:
            self._break_off(EngineError(str(error)))
            return
        if self._first_token_ms is None:
            assert self._reservation is not None
            self._first_token_ms = int((self._relay.loop.time() - self._reservation.started) * 1000)
        if stream.done:
            self._settle_stream(stream)
        if data:
            self._client.write(data, True)

    def _collect(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        most = MAX_ANSWER_BYTES if self._status == 200 else MAX_ERROR_BYTES
        if self._size > most:
            self._fail(EngineError(f"The engine's answer is longer than {most} bytes."))

    def end(self) -> None:
        self._line = None
        try:
            self._finish()
        except Exception as fault:
            self._crash(fault)

    def _finish(self) -> None:
        stream = self._stream
        if stream is None:
            self._answer(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        elif not stream.done:
            self._break_off(EngineError("The engine broke off its answer."))
        else:
            rest = stream.finish()
            self._settle_stream(stream)
            self._end()
            self._client.write(rest, False)

    def failed(self, error: UpstreamError) -> None:
        self._line = None
        self._fail(engine_error(error))

    # Ending

    def _answer(self, data: bytes) -> None:
        """A whole answer has come."""
        relay, call, reservation = self._relay, self._call, self._reservation
        assert reservation is not None
        if self._status != 200:
            self._fail(from_engine(self._status, data))
            return
        usage = call.endpoint.usage(data)
        if usage is None and data[:1] not in (b"{", b"["):
            self._fail(EngineError("The engine's answer is not JSON."))
            return
        relay.learn_speed(call.route, usage, reservation)
        exact = usage is not None or not call.endpoint.counts
        relay.settle(reservation, usage=usage, outcome="completed", exact=exact)
        self._end()
        self._client.start(200, [(b"content-type", JSON), (b"content-length", b"%d" % len(data)), *self._rates()])
        self._client.write(data, False)

    def _rates(self) -> Headers:
        assert self._reservation is not None
        return rate_headers(self._reservation.rates, self._relay.admission.now_ms() // 1000)

    def _fail(self, error: ApiError) -> None:
        """The engine refused, or broke its word."""
        if self._started:
            self._break_off(error)
            return
        refused = error.status < 500
        assert self._reservation is not None
        self._relay.settle(self._reservation, outcome="refused" if refused else "failed", exact=refused)
        self._end()
        self._client.fail(error)

    def _break_off(self, error: ApiError) -> None:
        """In mid-stream."""
        logger.warning("engine %s failed in mid-stream: %s", self._call.route.name, error)
        assert self._stream is not None
        self._settle_stream(self._stream)
        self._end()
        self._client.write(self._call.endpoint.error_event(error), False)

    def _crash(self, fault: Exception) -> None:
        """A fault of the portal's own: the client is told, and nothing stays held."""
        logger.error("request %s failed in the portal itself", self._call.request_id, exc_info=fault)
        if self.ended:
            return
        if self._reservation is not None:
            self._relay.settle(self._reservation, outcome="failed", exact=False)
        self._end()
        self._tell(ApiError("The portal failed; its operator finds the cause in the log."))

    def _tell(self, error: ApiError) -> None:
        if self._started:
            self._client.write(self._call.endpoint.error_event(error), False)
        else:
            self._client.fail(error)

    def _settle_stream(self, stream: StreamFilter) -> None:
        reservation = self._reservation
        assert reservation is not None
        if reservation.settled:
            return
        whole = stream.done and not stream.failed
        usage = counts(stream)
        if usage is None and not whole:
            usage = Usage()
        self._relay.settle(
            reservation,
            usage=usage,
            outcome="completed" if whole else "failed",
            exact=stream.final and usage is not None,
            first_token_ms=self._first_token_ms,
        )

    def _end(self) -> None:
        self.ended = True
        self._relay.running.discard(self)
        if self._reservation is not None:
            self._call.route.in_flight -= 1
        line, self._line = self._line, None
        if line is not None:
            line.abandon()
        self._parts = []


def counts(stream: StreamFilter) -> Usage | None:
    """A stream's latest counts, None where there are none or they are no counts."""
    try:
        return stream.usage()
    except BadStream as error:
        logger.error("an engine's count cannot be read: %s", error)
        return None


def _seen(stream: StreamFilter) -> tuple[int, int]:
    usage = counts(stream) or Usage()
    return usage.prompt_tokens, usage.generated_tokens
