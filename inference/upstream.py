"""The portal's side of the connection to an engine: HTTP/1.1, kept alive and pooled, one answer at a time.

    UpstreamError
    ├── CannotConnect    nothing was sent
    ├── TimedOut         no first byte, silence, or too long in all
    └── Broken           the engine closed or spoke no HTTP in the middle of an answer

Own code because forwarding is what this program is for: a general client costs several times the rest of a request.
No redirects, no proxies, no compression, no retry. What comes is given to the request's Taker within the event loop's
turn that read it: no task, no queue. A taker that cannot take more says `pause`, and nothing more is read.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import httptools

MAX_HEAD = 64 * 1024
# uvicorn, vLLM's server, closes an idle connection after 5 s: one that is nearly that old is not used again.
MAX_IDLE_S = 3.0
SWEEP_S = 0.25

Headers = list[tuple[bytes, bytes]]


class UpstreamError(Exception):
    """The engine's answer cannot be had (whole)."""


class CannotConnect(UpstreamError):
    pass


class TimedOut(UpstreamError):
    pass


class Broken(UpstreamError):
    pass


def header_of(headers: Headers, name: bytes) -> bytes:
    """The first value of a header (lower-case name); b"" when it is missing."""
    return next((value for key, value in headers if key == name), b"")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `idle`: between two reads within an answer."""

    connect: float
    first_byte: float
    idle: float
    total: float


class Taker(Protocol):
    """Who gets an answer: `head` once, `data` for each read that brought some, then `end` or `failed`, once. After
    `Line.abandon` nothing more is called. None of them may raise."""

    def head(self, status: int, headers: Headers) -> None: ...

    def data(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def failed(self, error: UpstreamError) -> None: ...


class Line(Protocol):
    """A request that was sent, as its taker sees it."""

    def abandon(self) -> None:
        """The answer is not wanted any more. Closing the connection is what makes vLLM end its work on it."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Connection(asyncio.Protocol):
    """One connection and the answer that is on it."""

    def __init__(self, pool: "Pool", address: tuple[str, int]) -> None:
        self._pool = pool
        self.address = address
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self.dead = False
        self.idle_since = 0.0
        self._taker: Taker | None = None
        self._reset()

    def _reset(self) -> None:
        self._headers: Headers = []
        self._head_bytes = 0
        self._status = 0
        self._head_given = False
        self._parts: list[bytes] = []
        self._complete = False
        self._keep_alive = False
        self._paused = False
        self._answer_deadline = 0.0
        self._silent_since = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._taker is None:  # bytes that nobody asked for: not a connection to use again
            self.abort()
            return
        self._silent_since = 0.0
        error: UpstreamError | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as fault:
            if not self._complete:
                error = Broken(f"the engine speaks no HTTP: {fault}")
            self._keep_alive = False  # the answer is whole; only the connection is spoilt
        if not self._status and error is None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                error = Broken("the head of the engine's answer is too long")
        self._give(error)

    def _give(self, error: UpstreamError | None) -> None:
        """What has been parsed goes to the taker, who may abandon the answer at each step."""
        taker = self._taker
        assert taker is not None
        if self._status and not self._head_given:
            self._head_given = True
            taker.head(self._status, self._headers)
        if self._parts and self._taker is taker:
            parts, self._parts = self._parts, []
            taker.data(parts[0] if len(parts) == 1 else b"".join(parts))
        if self._taker is not taker:
            return
        if self._complete:
            self._detach()
            if self._keep_alive and not self.dead:
                self._pool.take_back(self)
            else:
                self.abort()
            taker.end()
        elif error is not None:
            self._fail(error)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.dead = True
        if self._taker is not None:
            self._fail(Broken("the engine closed the connection in the middle of its answer"))

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._complete:  # bytes after the answer: of a second one that nobody asked for
            raise Broken("the engine sent more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer; the real one follows
            self._headers.clear()
            return
        self._status = status

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._status:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    # What the pool and the taker call

    def send(self, request: bytes, timeouts: Timeouts, taker: Taker) -> None:
        self._taker = taker
        self._timeouts = timeouts
        self._answer_deadline = self._pool.loop.time() + timeouts.total
        self._pool.busy.add(self)
        self._transport.write(request)

    def abandon(self) -> None:
        self._detach()
        self.abort()

    def pause(self) -> None:
        if not self._paused and not self.dead:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self.dead:
            self._paused = False
            self._silent_since = 0.0
            self._transport.resume_reading()

    def _detach(self) -> None:
        self._taker = None
        self._pool.busy.discard(self)
        self.resume()

    def abort(self) -> None:
        self.dead = True
        if self._transport is not None:
            self._transport.abort()

    def reuse(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def expire(self, now: float) -> None:
        """Ends an answer that is over its time. Called by the sweeper, which also measures the silence, to its own
        accuracy: looking at the clock at each read would cost more."""
        if self._paused:  # the client is slow, not the engine
            return
        if not self._silent_since:
            self._silent_since = now
        limit = self._timeouts.idle if self._head_given else self._timeouts.first_byte
        if now - self._silent_since > limit or now > self._answer_deadline:
            what = "fell silent" if self._head_given else "gave no first byte"
            self._fail(TimedOut(f"the engine {what} in time"))

    def _fail(self, error: UpstreamError) -> None:
        taker = self._taker
        self.abandon()
        if taker is not None:
            taker.failed(error)


class _Connecting:
    """A request whose connection is being made."""

    def __init__(self, pool: "Pool", address: tuple[str, int], request: bytes, timeouts: Timeouts, taker: Taker):
        self._taker = taker
        self._made: Connection | None = None
        self._connection: Connection | None = None
        self._task = pool.loop.create_task(self._connect(pool, address, request, timeouts))
        pool.connecting.add(self._task)
        self._task.add_done_callback(pool.connecting.discard)

    async def _connect(self, pool: "Pool", address: tuple[str, int], request: bytes, timeouts: Timeouts) -> None:
        def make() -> Connection:
            self._made = Connection(pool, address)
            return self._made

        try:
            async with asyncio.timeout(timeouts.connect):
                _, connection = await pool.loop.create_connection(make, *address)
        except asyncio.CancelledError:
            if self._made is not None:
                self._made.abort()
            raise
        except TimeoutError:
            self._taker.failed(CannotConnect("the engine does not accept connections in time"))
        except OSError as error:
            self._taker.failed(CannotConnect(f"the engine does not accept connections: {error.strerror or error}"))
        else:
            if connection.dead:
                self._taker.failed(Broken("the engine closed the connection at once"))
                return
            self._connection = connection
            connection.send(request, timeouts, self._taker)

    def abandon(self) -> None:
        if self._connection:
            self._connection.abandon()
        else:
            self._task.cancel()

    def pause(self) -> None:
        if self._connection:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection:
            self._connection.resume()


class Pool:
    """The connections of one event loop to all engines."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.busy: set[Connection] = set()
        self.connecting: set[asyncio.Task[None]] = set()
        self._idle: dict[tuple[str, int], deque[Connection]] = {}
        self._sweeper = self.loop.create_task(self._sweep())

    def post(self, address: tuple[str, int], head: bytes, body: bytes, timeouts: Timeouts, taker: Taker) -> Line:
        """Sends a request; the answer goes to `taker`, never within this call. `head` is request line and headers,
        each line with its end; the body's length is added."""
        request = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
        connection = self._fresh(address)
        if connection is None:
            return _Connecting(self, address, request, timeouts, taker)
        connection.send(request, timeouts, taker)
        return connection

    def _fresh(self, address: tuple[str, int]) -> Connection | None:
        idle = self._idle.get(address)
        oldest = self.loop.time() - MAX_IDLE_S
        while idle:
            connection = idle.pop()  # the latest used: the others may grow old and be closed
            if not connection.dead and connection.idle_since > oldest:
                connection.reuse()
                return connection
            connection.abort()
        return None

    def take_back(self, connection: Connection) -> None:
        connection.idle_since = self.loop.time()
        self._idle.setdefault(connection.address, deque()).append(connection)

    async def _sweep(self) -> None:
        """One clock for all deadlines: a timer per read would cost more than the read."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self.loop.time()
            for connection in list(self.busy):
                connection.expire(now)
            for address, idle in list(self._idle.items()):
                while idle and (idle[0].dead or idle[0].idle_since < now - MAX_IDLE_S):
                    idle.popleft().abort()
                if not idle:
                    del self._idle[address]

    def close(self) -> None:
        self._sweeper.cancel()
        for task in list(self.connecting):
            task.cancel()
        for connection in [*self.busy, *(one for idle in self._idle.values() for one in idle)]:
            connection.abort()
        self._idle.clear()
