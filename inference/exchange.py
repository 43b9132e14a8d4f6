"""One request on its way: reserve, forward, pass the answer on, settle. Driven by what arrives, without a task.

    begin ─ RESERVING ─ SENT ─┬─ WHOLE ──┐
               │         │    ├─ STREAM ─┼─ ENDED
               └ refused ┴────┴──────────┘

Whatever ends it (the answer's end, the engine's failure, the client's leaving), the reservation is settled once and
the engine's connection is given back or closed, which makes vLLM stop working on it.
"""

import logging
from functools import partial
from typing import TYPE_CHECKING

from inference.call import Call, Client, prepare
from inference.client import EVENT_STREAM
from inference.endpoints.base import StreamFilter, counts, seen
from inference.engine_errors import engine_away, engine_error
from inference.errors import ApiError, Asleep, EngineError, from_engine
from inference.limits import rate_lines
from inference.reserving import Reserving
from inference.routing import Caller
from inference.slices import Slices
from inference.sse import BadStream, Usage
from inference.upstream import Broken, CannotConnect, Headers, Line, TimedOut, UpstreamError, header_of

if TYPE_CHECKING:
    from inference.relay import Relay

logger = logging.getLogger(__name__)

MAX_ERROR_BYTES = 2**20
MAX_ANSWER_BYTES = 256 * 2**20


class Exchange(Reserving):
    """One request. Belongs to its event loop."""

    __slots__ = (
        "_first_token_ms", "_line", "_parts", "_paused", "_size", "_sliced", "_slices", "_started", "_status",
        "_stream",
    )  # fmt: skip

    def __init__(self, relay: "Relay", call: Call, client: Client) -> None:
        super().__init__(relay, call, client)
        self._line: Line | None = None
        self._stream: StreamFilter | None = None
        self._status = self._size = 0
        self._parts: list[bytes] = []
        self._started = self._paused = self._sliced = False
        self._slices: Slices | None = None
        self._first_token_ms: int | None = None

    # What the client calls

    def begin(self) -> None:
        """Nothing is answered within this call."""
        self._relay.running.add(self)
        self._aim()

    def pause(self) -> None:
        self._paused = True
        if self._line:
            self._line.pause()

    def resume(self) -> None:
        self._paused = False
        if self._line and not (self._slices and self._slices.waiting):
            self._line.resume()

    @property
    def caller(self) -> Caller:
        return self._call.caller

    def break_off(self, error: ApiError) -> None:
        """Before the answer has ended: the portal stops, or the caller may not go on."""
        if not self.ended:
            self.abandon()
            self._tell(error)

    def abandon(self) -> None:
        """The client left. Settled are the counts that its stream has had so far; of an answer that was to come whole,
        or had not begun, the relay asks and estimates."""
        if self.ended:
            return
        self._stop_asking()
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
        self._relay.settle(reservation, Usage(prompt, generated), "aborted", exact)

    # Forwarding: what the connection to the engine calls

    def _forward(self) -> None:
        call, reservation = self._call, self._reservation
        assert reservation is not None
        now = self._relay.loop.time()
        if call.route.gone:
            if self._turn_elsewhere():
                return
            if (resting := self._relay.resting(call)) is not None:
                self._refuse_late(Asleep(resting))
                return
        if not call.route.breaker.lets_through(now):
            if not self._turn_elsewhere():
                self._refuse_late(engine_away(call.route.breaker.wait_s(now)))
            return
        granted, wanted = reservation.generated_tokens, self._wanted
        self._sliced = granted == self._relay.slice_tokens < wanted and call.endpoint.slices(call.body)
        prepare(call, wanted if self._sliced else granted)
        self._line = self._relay.post(call.route, call.endpoint.path, call.body.encode(), call.request_id, self)
        if self._paused:
            self._line.pause()

    def head(self, status: int, headers: Headers) -> None:
        self._status = status
        self._call.route.breaker.answered()
        if status != 200 or not self._call.body.stream or header_of(headers, b"content-type")[:17] != EVENT_STREAM:
            return
        stream = self._stream = self._call.endpoint.stream(self._call.body)
        assert self._reservation is not None
        self._reservation.seen = partial(seen, stream)
        if self._sliced:
            self._slices = Slices(self._admission, self._reservation, stream, self._go_on_in_slices)
        self._started = True
        self._client.start(self._rates())

    def data(self, data: bytes) -> None:
        stream = self._stream
        if stream is None:
            self._collect(data)
            return
        slices = self._slices
        try:
            data = stream.feed(data) if slices is None else slices.feed(data)
        except BadStream as error:
            self._break_off(EngineError(str(error)))
            return
        if slices is not None and not self._in_slices(slices, data):
            return
        if self._first_token_ms is None:
            assert self._reservation is not None
            self._first_token_ms = int((self._relay.loop.time() - self._reservation.started) * 1000)
        if stream.done:
            self._settle_stream(stream)
        if data:
            self._client.write(data, True)

    def _in_slices(self, slices: Slices, data: bytes) -> bool:
        """False: the stream has been ended where nothing more could be reserved."""
        if not slices.over:
            if self._line:
                self._line.pause() if slices.waiting or self._paused else self._line.resume()
            return True
        assert self._reservation is not None
        usage = Usage(slices.prompt_tokens, slices.generated_tokens)
        # The engine may be a token ahead of what it told.
        self._relay.settle(self._reservation, usage, "completed", False, self._first_token_ms)
        self._end()
        self._client.write(data, False)
        return False

    def _go_on_in_slices(self) -> None:
        """What was held back may go on, or never will."""
        if self.ended:
            return
        self.data(b"")
        if self._line is None and not self.ended and self._slices is not None and not self._slices.waiting:
            self.end()

    def _collect(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        most = MAX_ANSWER_BYTES if self._status == 200 else MAX_ERROR_BYTES
        if self._size > most:
            self._fail(EngineError(f"The engine's answer is longer than {most} bytes."))

    def end(self) -> None:
        self._line = None
        if self._slices is not None and self._slices.waiting:
            return
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
        breaker, now = self._call.route.breaker, self._relay.loop.time()
        if isinstance(error, CannotConnect):
            breaker.failed(now)
        elif isinstance(error, Broken):
            breaker.broke_off(now)
        # One that is slow has had its time, and has the request still: the other is not asked for the same.
        final = self._status or isinstance(error, TimedOut)
        try:
            if final or not self._turn_elsewhere():
                self._fail(engine_error(error))
        except Exception as fault:
            self._crash(fault)

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
        if usage is not None:
            relay.learn_speed(call.route, usage.generated_tokens, relay.loop.time() - reservation.started)
        exact = usage is not None or not call.endpoint.counts
        relay.settle(reservation, usage, "completed", exact)
        self._end()
        self._client.answer(data, self._rates())

    def _rates(self) -> bytes:
        assert self._reservation is not None
        return rate_lines(self._reservation.told, self._admission.now_ms() // 1000)

    def _fail(self, error: ApiError) -> None:
        """The engine refused, or broke its word."""
        if self._started:
            self._break_off(error)
            return
        refused = error.status < 500
        assert self._reservation is not None
        self._relay.settle(self._reservation, None, "refused" if refused else "failed", exact=refused)
        self._end()
        self._client.fail(error)

    def _break_off(self, error: ApiError) -> None:
        """In mid-stream."""
        logger.warning("engine %s failed in mid-stream: %s", self._call.route.name, error)
        assert self._stream is not None
        self._settle_stream(self._stream)
        self._end()
        self._client.break_off(error)

    def _crash(self, fault: Exception) -> None:
        """A fault of the portal's own: the client is told, and nothing stays held."""
        logger.error("request %s failed in the portal itself", self._call.request_id, exc_info=fault)
        if self.ended:
            return
        if self._reservation is not None:
            self._relay.settle(self._reservation, None, "failed", exact=False)
        self._end()
        self._tell(ApiError("The portal failed; its operator finds the cause in the log."))

    def _tell(self, error: ApiError) -> None:
        if self._started:
            self._client.break_off(error)
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
        exact = stream.final and usage is not None
        self._relay.settle(reservation, usage, "completed" if whole else "failed", exact, self._first_token_ms)

    def _end(self) -> None:
        self.ended = True
        self._relay.running.discard(self)
        self._leave()
        line, self._line = self._line, None
        if line is not None:
            line.abandon()
        self._parts = []
