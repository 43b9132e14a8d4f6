"""The portal's side of the connection to an engine: HTTP/1.1, kept alive and pooled, one answer at a time.

    UpstreamError
    ├── CannotConnect    nothing was sent
    ├── TimedOut         no first byte, silence, or too long in all
    └── Broken           the engine closed or spoke no HTTP in the middle of an answer

Own code because forwarding is what this program is for: a general client costs several times the rest of a request.
No redirects, no proxies, no compression, no retry. Reading stops while nobody takes what came (back-pressure), so a
slow client costs HIGH_WATER bytes and not the whole answer.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

import httptools

HIGH_WATER = 64 * 1024
MAX_HEAD = 64 * 1024
# uvicorn, vLLM's server, closes an idle connection after 5 s: one that is nearly that old is not used again.
MAX_IDLE_S = 3.0
SWEEP_S = 0.25


class UpstreamError(Exception):
    """The engine's answer cannot be had (whole)."""


class CannotConnect(UpstreamError):
    pass


class TimedOut(UpstreamError):
    pass


class Broken(UpstreamError):
    pass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `idle`: between two reads within an answer."""

    connect: float
    first_byte: float
    idle: float
    total: float


class Connection(asyncio.Protocol):
    """One connection and the answer that is on it. `status` and `headers` are set once `head` has returned."""

    def __init__(self, pool: "Pool", address: tuple[str, int]) -> None:
        self._pool = pool
        self.address = address
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self.dead = False
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._head_done = False
        self._complete = False
        self._keep_alive = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._answer_deadline = 0.0
        self._silent_since = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._complete:  # bytes that nobody asked for: not a connection to use again
            self.abort()
            return
        self._silent_since = 0.0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._complete:  # the answer is whole; only the connection is spoilt
                self.abort()
                self._wake()
                return
            self._fail(Broken(f"the engine speaks no HTTP: {error}"))
            return
        if not self._head_done:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._fail(Broken("the head of the engine's answer is too long"))
                return
        self._wake()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.dead = True
        if not self._complete and self._error is None:
            self._error = Broken("the engine closed the connection in the middle of its answer")
        self._wake()

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._complete:  # bytes after the answer: of a second one that nobody asked for
            raise Broken("the engine sent more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer; the real one follows
            self.headers.clear()
            return
        self.status = status
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered += len(body)
        if self._buffered > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if not self._head_done:
            return
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()

    # What the relay calls

    def send(self, request: bytes, timeouts: Timeouts, now: float) -> None:
        self._timeouts = timeouts
        self._answer_deadline = now + timeouts.total
        self._transport.write(request)

    async def head(self) -> int:
        """The status, as soon as the answer's head is there. Raises UpstreamError."""
        while not self._head_done:
            await self._wait()
        return self.status

    async def next(self) -> bytes:
        """What has come since the last call, as one piece; b"" at the end of the answer. Raises UpstreamError, after
        what came before the failure has been given out."""
        while not self._chunks:
            if self._complete:
                return b""
            await self._wait()
        chunk = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused and not self.dead:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    async def read(self, limit: int) -> bytes:
        """The rest of the answer. Raises UpstreamError, also when it is longer than limit bytes."""
        parts, size = [], 0
        while chunk := await self.next():
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                raise Broken(f"the engine's answer is longer than {limit} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def header(self, name: bytes) -> bytes:
        """The first value of a header (lower-case name); b"" when it is missing."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    def release(self) -> None:
        """The answer has been taken or is given up. A connection with an unfinished answer is closed: that is what
        makes vLLM end its work on the request."""
        self._pool.busy.discard(self)
        if self._complete and self._keep_alive and not self.dead and not self._chunks:
            self._pool.take_back(self)
        else:
            self.abort()

    def abort(self) -> None:
        self.dead = True
        self._transport.abort()

    def reuse(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def expire(self, now: float) -> None:
        """Ends an answer that is over its time. Called by the sweeper, which also measures the silence, to its own
        accuracy: looking at the clock at each read would cost more."""
        if self._waiter is None:  # the client is slow, not the engine
            self._silent_since = 0.0
            return
        if not self._silent_since:
            self._silent_since = now
        limit = self._timeouts.idle if self._head_done else self._timeouts.first_byte
        if now - self._silent_since > limit or now > self._answer_deadline:
            what = "fell silent" if self._head_done else "gave no first byte"
            self._fail(TimedOut(f"the engine {what} in time"))

    async def _wait(self) -> None:
        if self._error:
            raise self._error
        if self.dead:
            raise Broken("the connection to the engine is closed")
        self._waiter = self._pool.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error and not self._chunks:
            raise self._error

    def _fail(self, error: UpstreamError) -> None:
        self._error = error
        self.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class Pool:
    """The connections of one event loop to all engines."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.busy: set[Connection] = set()
        self._idle: dict[tuple[str, int], deque[Connection]] = {}
        self._sweeper = self.loop.create_task(self._sweep())

    async def post(self, address: tuple[str, int], head: bytes, body: bytes, timeouts: Timeouts) -> Connection:
        """Sends a request; the caller awaits `head`, then `next` or `read`, and calls `release` in any case. `head` is
        request line and headers, each line with its end; the body's length is added. Raises CannotConnect."""
        connection = self._fresh(address) or await self._connect(address, timeouts.connect)
        self.busy.add(connection)
        request = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
        connection.send(request, timeouts, self.loop.time())
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

    async def _connect(self, address: tuple[str, int], timeout_s: float) -> Connection:
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await self.loop.create_connection(lambda: Connection(self, address), *address)
        except TimeoutError:
            raise CannotConnect("the engine does not accept connections in time") from None
        except OSError as error:
            raise CannotConnect(f"the engine does not accept connections: {error.strerror or error}") from None
        return connection

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
        for connection in [*self.busy, *(one for idle in self._idle.values() for one in idle)]:
            connection.abort()
        self._idle.clear()
