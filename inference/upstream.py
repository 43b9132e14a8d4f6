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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import httptools

from inference.answer_head import AnswerHead, AnswerHeads, Headers

if TYPE_CHECKING:
    from inference.pool import Pool

MAX_HEAD = 64 * 1024

Address = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""

LONGEST_CHUNK = 4096  # of those that are recognized by their length


def _chunk_heads() -> list[bytes]:
    """How a chunk begins that has this many bytes in all: its length in as few digits as it takes, and CRLF. A chunk
    that comes alone, as vLLM's do, is recognized by that at a third of the cost of looking for its parts."""
    none = b"-" * LONGEST_CHUNK  # longer than what is looked at: nothing begins so
    heads = [none] * LONGEST_CHUNK
    for size in range(1, LONGEST_CHUNK):
        head = b"%x\r\n" % size
        if (total := len(head) + size + 2) < LONGEST_CHUNK:
            heads[total] = head
    return heads


_CHUNK_HEADS = _chunk_heads()
_heads = AnswerHeads()
_SIZES = [b"%x\r\n" % size for size in range(LONGEST_CHUNK)]


def chunk(data: bytes) -> bytes:
    """A chunk of HTTP's, of one byte at least."""
    size = len(data)
    return b"".join((_SIZES[size] if size < LONGEST_CHUNK else b"%x\r\n" % size, data, b"\r\n"))


class UpstreamError(Exception):
    """The answer cannot be had (whole). The text goes on from whoever was asked: the engine, or the pages' process."""


class CannotConnect(UpstreamError):
    pass


class TimedOut(UpstreamError):
    pass


class Broken(UpstreamError):
    pass


def header_of(headers: Headers, name: bytes) -> bytes:
    """The first value of a header (lower-case name); b"" when it is missing."""
    return next((value for key, value in headers if key == name), b"")


def lines_of(headers: Headers) -> bytes:
    """Header lines, each with its CRLF."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def headers_of(lines: bytes) -> Headers:
    """Of header lines, each with its CRLF."""
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])]


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


class Connection:
    """One connection and the answer that is on it."""

    def __init__(self, pool: "Pool", address: Address) -> None:
        self._pool = pool
        self.address = address
        self._transport: Any = None
        self._parser: httptools.HttpResponseParser | None = None
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
        self._bodiless = False
        self._between_chunks = False
        self._answer_deadline = 0.0
        self._silent_since = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        taker = self._taker
        if taker is None:  # bytes that nobody asked for: not a connection to use again
            self.abort()
            return
        if self._between_chunks and len(data) < LONGEST_CHUNK:
            begin = _CHUNK_HEADS[len(data)]
            if data.startswith(begin) and data.endswith(b"\r\n"):
                # One whole chunk. The parser need not know: it waits for the next chunk before and after.
                self._silent_since = 0.0
                taker.data(data[len(begin) : -2])
                return
        if not self._head_bytes and self._pool.short:
            whole = _heads.read(data)
            if whole is not None:
                self._give_whole(taker, whole[0], data, whole[1])
                return
        self._silent_since = 0.0
        error: UpstreamError | None = None
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as fault:
            if not self._complete:
                error = Broken(f"speaks no HTTP: {fault}")
            self._keep_alive = False  # the answer is whole; only the connection is spoilt
        if not self._status or not self._head_bytes:
            self._head_bytes += len(data)
            if not self._status and error is None and self._head_bytes > MAX_HEAD:
                error = Broken("began its answer with a head that is too long")
        self._give(error)

    def _give_whole(self, taker: Taker, head: AnswerHead, data: bytes, at: int) -> None:
        """An answer that came in one piece, as most do that are not streamed: no parser is needed to find its end."""
        taker.head(head.status, head.headers)
        if self._taker is taker and len(data) > at:
            taker.data(data[at:])
        if self._taker is taker:
            self._detach()
            self._pool.take_back(self)
            taker.end()

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
            self._fail(Broken("closed the connection in the middle of its answer"))

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._complete:  # bytes after the answer: of a second one that nobody asked for
            raise Broken("sent more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer; the real one follows
            self._headers.clear()
            return
        self._status = status
        if self._bodiless:  # the parser would wait for the body whose length is told
            self._complete = True

    def on_body(self, body: bytes) -> None:
        if not self._status:
            raise Broken("sent an interim answer with a body")
        self._parts.append(body)

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = self._pool.short and bool(self._status)

    def on_message_complete(self) -> None:
        self._between_chunks = False
        if self._status:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive() and not self._bodiless

    # What the pool and the taker call

    def send(self, request: bytes, timeouts: Timeouts, taker: Taker, bodiless: bool = False) -> None:
        self._taker = taker
        self._bodiless = bodiless
        self._timeouts = timeouts
        self._answer_deadline = self._pool.loop.time() + timeouts.total
        self._pool.busy.add(self)
        self._pool.outgoing.write(self._transport, request)

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
        self._parser = None
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
            what = "did not go on" if self._head_given else "did not begin its answer"
            self._fail(TimedOut(f"{what} in time"))

    def _fail(self, error: UpstreamError) -> None:
        taker = self._taker
        self.abandon()
        if taker is not None:
            taker.failed(error)
