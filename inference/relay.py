"""What the requests of one event loop share: the way to the engines and the way to the ledger."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Container
from typing import NamedTuple, Protocol

import msgspec

from inference.admission import Admission
from inference.asking import Reservation
from inference.call import Call
from inference.client import EVENTS
from inference.engine_errors import engine_error
from inference.errors import ApiError, EngineError, LimitReached, TryLater, from_engine
from inference.exchange import Exchange
from inference.fair_line import Place
from inference.pool import Pool
from inference.routing import Caller, Route, Routes
from inference.sse import Usage
from inference.upstream import Headers, Line, Taker, Timeouts, UpstreamError, headers_of

logger = logging.getLogger(__name__)

MAX_COUNT_BYTES = 64 * 2**20  # vLLM's /tokenize lists every token
HIGH_WATER = 64 * 1024


class AsyncClient(Protocol):
    """Where an answer goes that a coroutine waits for. Each call returns when the client has taken (most of) what it
    was given. A client that leaves cancels the task that serves it."""

    async def start(self, status: int, headers: Headers) -> None: ...

    async def send(self, data: bytes, *, more: bool = True) -> None: ...


class Turns(NamedTuple):
    """Where an engine is full: how many wait for it, and for how long."""

    most_waiting: int
    wait_s: float


TURNS = Turns(1000, 60)


def engine_full(wait_s: float) -> TryLater:
    return TryLater("The engine works on as many requests as it can, and others wait.", retry_after_s=max(wait_s, 2))


class Relay:
    def __init__(
        self,
        admission: Admission,
        pool: Pool,
        timeouts: Timeouts,
        slice_tokens: int = 256,
        turns: Turns = TURNS,
        routes: Routes | None = None,
        asleep: Routes | None = None,
    ) -> None:
        """`routes`: where other engines are found for those that cannot be reached; None: there are none. `asleep`:
        those that sleep, likewise."""
        self.admission = admission
        self.loop = pool.loop
        self.slice_tokens = slice_tokens
        self._turns = turns
        self._routes = routes
        self._asleep = asleep
        self._pool = pool
        self._timeouts = timeouts
        self._background: set[asyncio.Task[None]] = set()
        self.running: set[Exchange] = set()

    def callers(self) -> set[Caller]:
        """Whose requests are under way."""
        return {exchange.caller for exchange in self.running}

    def break_off(self, error: ApiError, whose: Container[Caller] | None = None) -> None:
        """Ends what is under way, of these callers alone where they are given: clients are told, and what was counted
        is charged."""
        for exchange in list(self.running):
            if whose is None or exchange.caller in whose:
                exchange.break_off(error)

    async def serve(self, call: Call, client: AsyncClient) -> None:
        """Raises ApiError, also in mid-stream: how the client is told is for the caller to know."""
        pipe = Pipe(self.loop)
        exchange = pipe.exchange = Exchange(self, call, pipe)
        exchange.begin()
        try:
            await pipe.pour(client)
        finally:
            exchange.abandon()  # of what has ended, nothing

    def post(self, route: Route, path: str, body: bytes, request_id: str, taker: Taker) -> Line:
        """Nothing of the client's own headers goes on but its request id, which has been checked."""
        head = route.heads.get(path)
        if head is None:
            head = route.heads[path] = (
                b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\nauthorization: %b\r\n"
                b"x-request-id: " % (path.encode(), route.authorization)
            )
        head = b"".join((head, request_id.encode(), b"\r\n"))
        return self._pool.post(route.address, head, body, self._timeouts, taker)

    async def count_prompt(self, call: Call) -> int:
        """The prompt's tokens, counted by the engine's own tokenizer and template. Raises ApiError."""
        requests = call.endpoint.token_counts(call.body, call.route)
        if requests is None:
            raise LimitReached("This prompt's size cannot be told beforehand, and little is left of your limit.")
        total = 0
        for request in requests:
            if isinstance(request, int):
                total += request
            else:
                total += await self._count(call.route, call.endpoint.count_path, request, call.endpoint.count_field)
        return total

    async def tokenize(self, route: Route, request: dict[str, object]) -> int:
        """How many tokens the engine makes of `prompt` or `messages`. Raises ApiError."""
        return await self._count(route, "/tokenize", request, "count")

    async def _count(self, route: Route, path: str, request: dict[str, object], field: str) -> int:
        answer = Answer(self.loop)
        line = self.post(route, path, msgspec.json.encode(request), "-", answer)
        try:
            status, data = await answer.whole()
        except UpstreamError as error:
            raise engine_error(error) from None
        finally:
            if not answer.ended:
                line.abandon()
        if status != 200:
            raise from_engine(status, data)
        try:
            return int(msgspec.json.decode(data, type=dict)[field])
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            raise EngineError("The engine's token count cannot be read.") from None

    def instead(self, call: Call) -> Route | None:
        """Another engine for what cannot be forwarded to its own; None: there is none."""
        if self._routes is None or call.name is None:
            return None
        return self._routes.instead(call.caller, call.name, call.route, call.body)

    def resting(self, call: Call) -> Route | None:
        """The call's engine where it has been put to vLLM's sleep since it was found; None: it has not."""
        return None if self._asleep is None else self._asleep.resting(call.route.engine_id)

    # Taking turns

    def place(
        self, call: Call, reservation: Reservation, go: Callable[[], None], refuse: Callable[[ApiError], None]
    ) -> Place:
        """A place in the engine's line, for `leave` to give back. It is `going`, or `go` is called later, or `refuse`;
        neither within this call."""
        line, body = call.route.line, call.body
        tokens = reservation.prompt_tokens + reservation.generated_tokens
        place = Place(call.caller.user_id, tokens, body.batch, call.caller.weight, go)
        if line.enter(place):
            return place
        wait_s = self._turns.wait_s if line.waiting <= self._turns.most_waiting else 0.0
        place.timer = self.loop.call_later(wait_s, refuse, engine_full(wait_s))
        return place

    # Settling

    def settle(
        self,
        reservation: Reservation,
        usage: Usage | None,
        outcome: str,
        exact: bool,
        first_token_ms: int | None = None,
    ) -> None:
        """None as usage: of a completed answer the reservation is charged, of any other nothing."""
        if usage is None:
            held = Usage(reservation.prompt_tokens, reservation.generated_tokens)
            usage = held if outcome == "completed" else Usage()
        prompt, generated = usage.prompt_tokens, usage.generated_tokens
        if not 0 <= prompt <= reservation.prompt_tokens * 2 + 4096:
            logger.error("the engine claims a prompt of %d tokens; charging the reservation", prompt)
            prompt, exact = reservation.prompt_tokens if prompt > 0 else 0, False
        if not 0 <= generated <= reservation.generated_tokens:
            logger.error("the engine claims %d generated tokens of %d", generated, reservation.generated_tokens)
            generated, exact = min(max(generated, 0), reservation.generated_tokens), False
        self.admission.settle(reservation, prompt, generated, outcome, exact, usage.cached_tokens, first_token_ms)

    def settle_unseen(self, call: Call, reservation: Reservation, text: str | None, seen: int) -> None:
        """The client left before the engine told its counts. The prompt is counted by the engine's tokenizer, and so is
        the `text` of a stream (`seen`: its pieces, where that fails); what an answer that was to come whole had cost by
        then is estimated from the engine's speed."""
        if text is None and not call.body.stream:
            seen = int((self.loop.time() - reservation.started) * call.route.tokens_per_s)

        async def settle() -> None:
            prompt, generated = reservation.prompt_tokens, seen
            with contextlib.suppress(ApiError):
                prompt = await self.count_prompt(call)
                if text:
                    request = {"model": call.route.model, "prompt": text, "add_special_tokens": False}
                    generated = await self.tokenize(call.route, request)
            usage = Usage(prompt, min(generated, reservation.generated_tokens))
            self.settle(reservation, usage, "aborted", exact=False)

        task = self.loop.create_task(settle())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def learn_speed(self, route: Route, generated_tokens: int, elapsed_s: float) -> None:
        if generated_tokens and elapsed_s > 0:
            seen = generated_tokens / elapsed_s
            route.tokens_per_s = seen if not route.tokens_per_s else 0.9 * route.tokens_per_s + 0.1 * seen


class Pipe:
    """A Client whose answer a coroutine takes. What waits in it is bounded: it pauses its exchange."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.exchange: Exchange | Line
        self._start: tuple[int, Headers] | None = None
        self._error: ApiError | None = None
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._more = True
        self._waiter: asyncio.Future[None] | None = None

    def start(self, lines: bytes) -> None:
        self.begin(200, [*EVENTS, *headers_of(lines)])

    def begin(self, status: int, headers: Headers) -> None:
        self._start = status, headers
        self._wake()

    def write(self, data: bytes, more: bool) -> None:
        self._waiting.append(data)
        self._size += len(data)
        self._more = more
        if more and self._size > HIGH_WATER:
            self.exchange.pause()
        self._wake()

    def answer(self, data: bytes, lines: bytes) -> None:
        length = b"%d" % len(data)
        self.begin(200, [(b"content-type", b"application/json"), (b"content-length", length), *headers_of(lines)])
        self.write(data, False)

    def fail(self, error: ApiError) -> None:
        self._error = error
        self._wake()

    def break_off(self, error: ApiError) -> None:
        self.fail(error)

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def pour(self, client: AsyncClient) -> None:
        """All of the answer, as it comes. Raises ApiError."""
        status, headers = await self._begun()
        await client.start(status, headers)
        more = True
        while more:
            data, more = await self._next()
            await client.send(data, more=more)

    async def _begun(self) -> tuple[int, Headers]:
        """Raises ApiError."""
        while self._start is None:
            if self._error:
                raise self._error
            await self._wait()
        return self._start

    async def _next(self) -> tuple[bytes, bool]:
        """What has come since the last call, as one piece, and whether more will come. Raises ApiError."""
        while not self._waiting:
            if self._error:
                raise self._error
            await self._wait()
        data = self._waiting.popleft() if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting.clear()
        if self._size > HIGH_WATER:
            self.exchange.resume()
        self._size = 0
        return data, self._more


class Answer:
    """An engine's answer to a question of the portal's own, whole."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int = MAX_COUNT_BYTES) -> None:
        self._done: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._most = most
        self._status = 0
        self._parts: list[bytes] = []
        self._size = 0
        self.ended = False

    async def whole(self) -> tuple[int, bytes]:
        """(status, body). Raises UpstreamError."""
        return await self._done

    def head(self, status: int, headers: Headers) -> None:
        self._status = status

    def data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._most:
            self._parts.append(data)

    def end(self) -> None:
        if self._size > self._most:
            self.failed(UpstreamError(f"answered with more than {self._most} bytes"))
            return
        self.ended = True
        if not self._done.done():
            self._done.set_result((self._status, b"".join(self._parts)))

    def failed(self, error: UpstreamError) -> None:
        self.ended = True
        if not self._done.done():
            self._done.set_exception(error)
