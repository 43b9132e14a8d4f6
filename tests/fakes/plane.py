"""The whole data plane in memory: its own front, exchange, relay, admission and connections to engines. Doubles are
what lies outside: the sockets, the live ledger, the database, the engine and Django."""

import asyncio
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from accounts.auth import NotAuthenticated
from inference import gateway as gateways
from inference.admission import Admission
from inference.callers import Callers
from inference.errors import InvalidKey
from inference.front import Front
from inference.gateway import Gateway
from inference.ledger_link import LedgerLink
from inference.openai import DataPlane
from inference.pool import Pool
from inference.relay import Relay
from inference.routing import Caller, Route
from inference.wakes import Wakes
from inference.watch import TICKS
from tests.fakes.memory import Loop, Transport
from tests.fakes.upstream import completion, http
from vllm_portal.config import get_config

ENGINE = "11111111-2222-3333-4444-555555555555"
PORT = 8000
TOKEN = "known-to-the-portal"
ALICE = Caller(1, "alice", False, 1, 2**40)


class Packed:
    """An operation as the script unpacks it."""

    def __init__(self, rest: bytes) -> None:
        self.rest = rest

    def text(self) -> bytes:
        end = self.rest[0] + 1
        text, self.rest = self.rest[1:end], self.rest[end:]
        return text

    def numbers(self, count: int) -> tuple[float, ...]:
        read = struct.unpack_from(f">{count}d", self.rest)
        self.rest = self.rest[8 * count :]
        return read


class Ledger(LedgerLink):
    """The live ledger, which grants what is asked for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__("unix:///nowhere")
        self._loop = loop
        self.admitted: list[bytes] = []
        self.settled: list[tuple[bytes, dict[str, Any]]] = []

    def send(self, callback: Callable[[Any], None], operation: bytes) -> None:
        answer = b"1"
        kind, packed = operation[:1], Packed(operation[1:])
        if kind == b"A":
            _user, _key, _versions = packed.text(), packed.text(), packed.numbers(2)
            _session, request, numbers = packed.text(), packed.text(), packed.numbers(5)
            self.admitted.append(request)
            answer = b"ok\t%d\t-1\t-1\t1000\t1000\t\t" % numbers[1]
        elif kind == b"S":
            _user, _key, request = packed.text(), packed.text(), packed.text()
            packed.numbers(4)
            self.settled.append((request, json.loads(packed.rest[2:])))  # nothing is held of a window
        self._loop.call_soon(callback, answer)

    def send_along(self, callback: Callable[[Any], None], operation: bytes, record: bytes) -> None:
        self.send(callback, operation + record)

    def check(self) -> None:
        """Each request that was let in has been settled, once."""
        assert sorted(request for request, _ in self.settled) == sorted(self.admitted)


@dataclass
class Asked:
    """What came through: to the engine, or to Django. Of a body that nobody read: b""."""

    where: str
    method: str
    path: str
    body: bytes

    def __iter__(self) -> Any:
        return iter((self.where, self.method, self.path, self.body))


@dataclass
class Seen:
    """Requests in the order in which they came through."""

    requests: list[Asked] = field(default_factory=list)


class Engine:
    """Answers with what `answer` gives for a request's body, and keeps its connections."""

    def __init__(self, loop: Loop, seen: Seen) -> None:
        self._loop, self._seen = loop, seen
        self.answer: Callable[[Asked], bytes] = lambda asked: http(completion())
        self.lines: list[Transport] = []
        loop.servers[PORT] = self._connected

    def _connected(self, line: Transport) -> None:
        self.lines.append(line)
        buffer = bytearray()

        def came(data: bytes) -> None:
            buffer.extend(data)
            head, end, rest = bytes(buffer).partition(b"\r\n\r\n")
            if not end:
                return
            length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
            if len(rest) < length:
                return
            assert len(rest) == length, "a request was sent before the last one was answered"
            buffer.clear()
            method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
            asked = Asked("engine", method, path, rest)
            self._seen.requests.append(asked)
            self._loop.call_soon(line.arrive, self.answer(asked))

        line.on_taken = came


class Django:
    """Tells what it was asked."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        asked = Asked("django", scope["method"], scope["path"], b"")
        self._seen.requests.append(asked)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            asked.body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = b"%b %b" % (asked.method.encode(), asked.body)
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


class Plane:
    """One event loop's. `client(Front)` is a connection as production has it, `client(HttpToolsProtocol)` the same
    application behind uvicorn alone."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.seen = Seen()
        self.engine = Engine(loop, self.seen)
        self.ledger = Ledger(loop)
        plane = self.gateway = Gateway()
        plane.callers = Callers(self._fetch)
        plane.admission = Admission(self.ledger, self._no_load, 60)
        self.pool = plane._pool = Pool()
        plane.relay = Relay(plane.admission, self.pool, plane._timeouts)
        plane.wakes = Wakes(plane.admission, plane._see, self._no_look, get_config())
        plane.routes.replace([_route()])
        plane.look_again = self._no_look  # type: ignore[method-assign]
        plane.started.set()
        gateways._gateways[loop] = plane
        self._config = uvicorn.Config(
            DataPlane(Django(self.seen)), http=Front, ws="none", lifespan="off", log_config=None, access_log=False
        )
        self._config.load()
        self.state = ServerState()

    async def _fetch(self, token: str) -> Caller:
        if token != TOKEN:
            raise NotAuthenticated("no")
        return ALICE

    async def _no_load(self, subject: str) -> None:
        raise InvalidKey("nobody")

    async def _no_look(self) -> None:
        return None

    async def known(self) -> "Plane":
        """The portal has seen the token before: the short way is open."""
        await self.gateway.callers.identify(b"Bearer " + TOKEN.encode())
        return self

    def client(self, protocol: Any = Front) -> Transport:
        return Transport(self.loop, protocol(self._config, self.state, {}, self.loop))

    @property
    def long_way(self) -> int:
        return self.state.total_requests

    def tick(self, count: int) -> None:
        """Lets the watch of the clients' connections look at them, as often as that."""
        watch = self.gateway.watch
        for _ in range(count):
            watch.tick += 1
            for connection in list(watch._connections):
                connection.give_up(TICKS, watch._idle_ticks)

    async def close(self) -> None:
        gateways._gateways.pop(self.loop)
        self.pool.close()
        for task in list(self.state.tasks):
            task.cancel()
        await self.loop.settle()


def _route() -> Route:
    return Route(ENGINE, "tiny-1", "tiny", 1, False, ("engine", PORT), b"Bearer k", 1024, "generate", True, 0)
