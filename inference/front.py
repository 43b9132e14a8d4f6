"""The client's side: one connection of the web server. Uvicorn starts it for each connection that it accepts.

    data ──┬─ an inference request as clients send it ── Exchange ── answer      no task, no ASGI
           └─ anything else ── Plain: uvicorn's own protocol ── ASGI ── Django, or the data plane's other paths

What goes the short way is decided per request, by an exact request line and a head without surprises; whatever looks
unusual is given, byte for byte, to uvicorn, whose answer ends before this connection is looked at again. So the short
way needs no error handling of its own for what it does not know: an unknown caller, an unknown model, a chunked body.
"""

import asyncio
import re
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from inference.call import Call
from inference.callers import Callers
from inference.client import EVENTS
from inference.digits import digits
from inference.endpoints import ENDPOINTS
from inference.endpoints.base import Endpoint
from inference.errors import ApiError, Asleep, ModelNotFound
from inference.exchange import Exchange
from inference.gateway import Gateway, running_gateway
from inference.limits import Revoked
from inference.outgoing import Outgoing
from inference.plain import Plain
from inference.relay import Relay
from inference.request_head import Head, Heads
from inference.routing import Routes
from inference.upstream import chunk, lines_of
from inference.watch import Watch
from vllm_portal.ids import new_id

MAX_AHEAD = 64 * 1024  # of a next request that comes before this one is answered
REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 413: b"Content Too Large", 429: b"Too Many Requests"}

_OK = b"HTTP/1.1 200 OK\r\n"
_JSON_OF_LENGTH = b"content-type: application/json\r\ncontent-length: "
_EVENTS = lines_of(EVENTS) + b"transfer-encoding: chunked\r\n"
_SHORT = ("/v1/chat/completions", "/chat/completions", "/v1/completions", "/v1/embeddings")
_LINES: dict[bytes, Endpoint] = {
    b"POST %b%b HTTP/1.1" % (path.encode(), slash): ENDPOINTS[path if path.startswith("/v1") else "/v1" + path]
    for path in _SHORT
    for slash in (b"", b"/")
}
_ENGINE_LINE = re.compile(
    rb"POST /engines/([0-9a-f-]{36})(/v1/(?:chat/completions|completions|embeddings))/? HTTP/1\.1\Z"
)

_heads = Heads()


class Front:
    """Also the exchange's Client: an answer is written as it comes, its head together with its first bytes."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._server = (config, server_state, app_state, _loop)
        self._connections = server_state.connections
        self._state = server_state
        self._loop = _loop or asyncio.get_event_loop()
        self._plain: Plain | None = None
        self._plane: Gateway | None = None
        self._callers: Callers
        self._routes: Routes
        self._relay: Relay
        self._outgoing: Outgoing
        self._watch: Watch
        self._transport: Any = None
        self._head_bytes = b""
        self._head: Head | None = None
        self._identity = ""
        self._endpoint: Endpoint | None = None
        self._engine_id: str | None = None
        self._body: list[bytes] = []
        self._missing = 0
        self._whole_body = b""
        self._ahead = b""
        self._exchange: Exchange | None = None
        self._answer_head = b""
        self._closing = False
        self._writable = True
        self.waiting_since = 0
        """The watch's tick at which the client last did what it was waited for: to read, or to send."""

    # What asyncio and uvicorn call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._connections.add(self)  # type: ignore[arg-type]
        plane = self._plane = running_gateway(self._loop)
        if plane:
            self._callers, self._routes, self._relay = plane.callers, plane.routes, plane.relay
            self._outgoing, self._watch = plane.outgoing, plane.watch
            self._watch.begin(self)
            self.waiting_since = self._watch.tick

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)  # type: ignore[arg-type]
        if self._plane:
            self._watch.end(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
        if self._plain is not None:
            self._plain.connection_lost(exc)

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        self._writable = False
        if self._plane:
            self.waiting_since = self._watch.tick
        if self._exchange is not None:
            self._exchange.pause()
        if self._plain is not None:
            self._plain.pause_writing()

    def resume_writing(self) -> None:
        self._writable = True
        if self._exchange is not None:
            self._exchange.resume()
        if self._plain is not None:
            self._plain.resume_writing()
        if self._ahead and self._exchange is None:
            self._loop.call_soon(self._go_on)

    def shutdown(self) -> None:
        """The server stops: what runs may end, nothing new begins, and nobody waits for an engine to wake."""
        self._closing = True
        if self._plane:
            self._plane.wakes.break_off()
        if self._exchange is None and not self._is_plain():
            self._close()

    def data_received(self, data: bytes) -> None:
        if self._plain is not None and self._plain.busy:
            if self._plane:
                self.waiting_since = self._watch.tick
            self._plain.data_received(data)
        elif self._exchange is not None or self._ahead or not self._writable:  # its turn comes
            self._ahead += data
            if len(self._ahead) > MAX_AHEAD:
                self._transport.pause_reading()
        elif self._missing:
            self._more(data)
        else:
            self._begin(data)

    # A request

    def _begin(self, data: bytes) -> None:
        end = data.find(b"\r\n")
        head_end = data.find(b"\r\n\r\n", end)
        if self._plane is None or head_end < 0 or not self._aim(data[:end]):
            self._hand_over(data)
            return
        read = _heads.read(data[end + 2 : head_end + 2])
        if read is None or read[1] > self._plane.max_body_bytes:
            self._hand_over(data)
            return
        head, self._missing = read
        self._head = head
        self._head_bytes = data[: head_end + 4]
        self._identity = head.identity
        self._more(data[head_end + 4 :])

    def _aim(self, line: bytes) -> bool:
        """Whether the request line is of the short way, and what it is aimed at."""
        self._engine_id = None
        endpoint = _LINES.get(line)
        if endpoint is None and (found := _ENGINE_LINE.match(line)):
            endpoint = ENDPOINTS[found[2].decode()]
            self._engine_id = found[1].decode()
        self._endpoint = endpoint
        return endpoint is not None

    def _more(self, data: bytes) -> None:
        missing = self._missing - len(data)
        if missing > 0:
            self._missing = missing
            self._body.append(data)
            self.waiting_since = self._watch.tick
            return
        if missing < 0:
            data, self._ahead = data[:missing], data[missing:]
        self._missing = 0
        if self._body:
            self._body.append(data)
            data = b"".join(self._body)
            self._body = []
        self._dispatch(data)

    def _dispatch(self, data: bytes) -> None:
        head, endpoint = self._head, self._endpoint
        assert head is not None
        assert endpoint is not None
        caller = self._callers.known(head.token_digest)
        if caller is None or not caller.may_infer:
            self._hand_over(self._head_bytes + data)
            return
        try:
            body = endpoint.parse(data)
            route = self._routes.find(caller, self._engine_id, body.model, body)
        except ModelNotFound:  # it may have become ready a moment ago
            self._hand_over(self._head_bytes + data)
            return
        except ApiError as error:
            self.fail(error)
            return
        self._whole_body = data
        own_id = not head.identity  # a client may send one twice
        self._identity = head.identity or new_id()
        name = body.model if self._engine_id is None else None
        call = Call(caller, route, endpoint, body, self._identity, name, own_id)
        exchange = self._exchange = Exchange(self._relay, call, self)
        exchange.begin()

    # The answer: what the exchange calls

    def start(self, lines: bytes) -> None:
        self._answer_head = self._lines(200, lines, _EVENTS)

    def _lines(self, status: int, lines: bytes, framing: bytes) -> bytes:
        """The head of an answer."""
        assert self._head is not None
        return b"".join((
            _OK if status == 200 else b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"-")),
            _default_lines(self._state.default_headers),
            lines,
            framing,
            b"x-request-id: ",
            self._identity.encode(),
            b"\r\nconnection: close\r\n\r\n" if self._head.close or self._closing else b"\r\n\r\n",
        ))  # fmt: skip

    def answer(self, data: bytes, lines: bytes) -> None:
        framing = b"".join((_JSON_OF_LENGTH, digits(len(data)), b"\r\n"))
        self._outgoing.write(self._transport, self._lines(200, lines, framing) + data)
        self._done()

    def write(self, data: bytes, more: bool) -> None:
        if more and data and not self._answer_head:
            self._outgoing.write(self._transport, chunk(data))
            return
        head, self._answer_head = self._answer_head, b""
        end = b"" if more else b"0\r\n\r\n"
        self._outgoing.write(self._transport, head + chunk(data) + end if data else head + end)
        if not more:
            self._done()

    def fail(self, error: ApiError) -> None:
        assert self._endpoint is not None
        assert self._head is not None
        if isinstance(error, Revoked):  # or what was known of the caller is old: the long way looks again
            self._callers.forget_one(self._head.token)
        if isinstance(error, Revoked | Asleep):  # the long way waits until it wakes
            self._exchange = None
            self._hand_over(self._head_bytes + self._whole_body)
            return
        self._identity = self._identity or new_id()
        data = self._endpoint.error(error)
        lines = lines_of(error.headers())
        self._outgoing.flush()
        # At once: who sends ahead what is refused, any number of them, is found out by what waits for it.
        self._transport.write(self._lines(error.status, lines, b"content-length: %d\r\n" % len(data)) + data)
        self._done()

    def break_off(self, error: ApiError) -> None:
        assert self._endpoint is not None
        self.write(self._endpoint.error_event(error), False)

    def _close(self) -> None:
        if self._plane:
            self._outgoing.flush()
        self._transport.close()

    def _done(self) -> None:
        assert self._head is not None
        self._exchange = None
        self._whole_body = b""
        self.waiting_since = self._watch.tick
        if self._head.close or self._closing:
            self._close()
        elif self._ahead:
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """With what came while the last request was answered, when the client has taken (most of) the answer."""
        if not self._ahead or not self._writable or self._transport.is_closing():
            return
        ahead, self._ahead = self._ahead, b""
        self._transport.resume_reading()
        self.data_received(ahead)

    def give_up(self, ticks: int, idle_ticks: int) -> None:
        """Called at each tick of the watch: a client that takes nothing, or sends no more of its request, for `ticks`
        is given up; a connection without a request is closed after `idle_ticks`."""
        waited = self._watch.tick - self.waiting_since
        plain = self._plain
        if self._missing or not self._writable or (plain is not None and not plain.between):
            if waited > ticks:
                self._transport.abort()
        elif self._exchange is None and not self._is_plain() and waited > idle_ticks:
            self._close()

    # The long way

    def rested(self) -> None:
        """A request has been answered on the long way."""
        if self._plane:
            self.waiting_since = self._watch.tick
        if self._closing and not self._is_plain():
            self._close()

    def _is_plain(self) -> bool:
        return self._plain is not None and self._plain.busy

    def _hand_over(self, data: bytes) -> None:
        """To uvicorn, until its answer to this has ended."""
        if self._plane:
            self._outgoing.flush()  # an answer before this one is written before
        ahead, self._ahead = self._ahead, b""
        if self._plain is None:
            config, state, app_state, loop = self._server
            self._plain = Plain(config, state, app_state, loop)
            self._plain.rested = self.rested
            self._plain.connection_made(self._transport)
        self._transport.resume_reading()
        self._plain.data_received(data + ahead)


_defaults: tuple[Any, bytes] = (None, b"")


def _default_lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Uvicorn's own, such as the date; it makes a new list each second."""
    global _defaults
    if _defaults[0] is not headers:
        _defaults = (headers, lines_of(headers))
    return _defaults[1]
