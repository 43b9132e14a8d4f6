"""The client's connection, byte by byte: what goes the short way, what goes the long one, and that nobody can tell."""

import asyncio
import contextlib
import itertools
import json
import re
import socket
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.request_head import Heads
from tests.fakes.upstream import STREAM_HEAD, chunk, completion, whole

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


class Wire:
    """A client of raw bytes."""

    def __init__(self, portal, timeout_s: float = 10.0):
        self.socket = socket.create_connection(("127.0.0.1", portal.port), timeout=timeout_s)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body (of chunks, put together). EOFError when the portal closed."""
        while b"\r\n\r\n" not in self.buffer:
            self._read()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):
            return self.answer()
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            return int(first.split()[1]), headers, self._chunks()
        length = int(headers["content-length"])
        while len(self.buffer) < length:
            self._read()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return int(first.split()[1]), headers, body

    def _chunks(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self.buffer:
                self._read()
            size, _, rest = self.buffer.partition(b"\r\n")
            need = int(size, 16) + 2
            while len(rest) < need:
                self._read()
                rest = self.buffer.partition(b"\r\n")[2]
            self.buffer = rest[need:]
            if need == 2:
                return body
            body += rest[: need - 2]

    def _read(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self.buffer += data

    def closed(self) -> bool:
        """Waits for the portal to close."""
        with contextlib.suppress(ConnectionResetError):
            return self.socket.recv(1) == b""
        return True


def request(portal, user, body=CHAT, line="POST /v1/chat/completions HTTP/1.1", *more: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    if user.pk not in portal.tokens:
        portal.tokens[user.pk] = portal.headers(user)["Authorization"]
    lines = [line, "host: x", f"Authorization: {portal.tokens[user.pk]}"]
    lines += ["content-type: application/json", f"content-length: {len(data)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


@pytest.fixture
def known(portal, engine, alice, eventually):
    """The bytes of alice's request; the portal has seen her token before."""
    data = request(portal, alice)
    with Wire(portal) as wire:
        wire.send(data)
        assert wire.answer()[0] == 200
    eventually(lambda: portal.long_way == 1)
    return data


def test_a_known_callers_request_goes_the_short_way(portal, known):
    with Wire(portal) as wire:
        for _ in range(3):
            wire.send(known)
            status, headers, body = wire.answer()
            assert (status, headers["content-type"], body) == (200, "application/json", completion())
            assert re.fullmatch(r"[0-9a-f]{16,64}", headers["x-request-id"])
            assert "date" in headers
    assert portal.long_way == 1


def test_a_connection_comes_back_from_the_long_way(portal, engine, alice, eventually):
    """A token that was never seen, a model list, a page of Django's: after each, the short way is open again."""
    chat = request(portal, alice)
    others = [chat, request(portal, alice, b"", "GET /v1/models HTTP/1.1"), request(portal, alice, b"", PAGE)]
    with Wire(portal) as wire:
        for count, other in enumerate(others, start=1):
            wire.send(other)
            assert wire.answer()[0] == 200
            eventually(lambda count=count: portal.long_way == count)
            wire.send(chat)
            assert wire.answer()[0] == 200
            assert portal.long_way == count


PAGE = "GET /healthz HTTP/1.1"


@given(cuts=st.lists(st.integers(1, 2000), max_size=4), streamed=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_request_is_the_same_wherever_its_packets_end(portal, alice, raw_engine, known, cuts, streamed):
    raw_engine.answer = streaming if streamed else whole(completion())
    data = request(portal, alice, {**CHAT, "stream": streamed})
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    with Wire(portal) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in itertools.pairwise(edges):
            wire.send(data[start:end])
            time.sleep(0.001)
        status, _, body = wire.answer()
    assert status == 200
    assert body == (EVENTS if streamed else completion())


EVENTS = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n'


async def streaming(received, writer):
    usage = b',"usage":{"prompt_tokens":3,"completion_tokens":1}'
    event, done = EVENTS.split(b"\n\n")[:2]
    writer.write(STREAM_HEAD + chunk(event[:-1] + usage + b"}\n\n"))
    await writer.drain()
    last = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    writer.write(chunk(last) + chunk(done + b"\n\n") + b"0\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize("order", [(0, 0, 0), (0, 1, 0), (1, 0, 1), (2, 0, 1, 0, 2)])
def test_requests_sent_ahead_are_answered_in_their_order(portal, alice, raw_engine, known, order):
    kinds = [known, request(portal, alice, b"", "GET /v1/models HTTP/1.1"), request(portal, alice, {**CHAT, "n": 0})]
    with Wire(portal) as wire:
        wire.send(b"".join(kinds[kind] for kind in order))
        statuses = [wire.answer()[0] for _ in order]
    assert statuses == [(200, 200, 400)[kind] for kind in order]


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        ("Transfer-Encoding: chunked", (400,)),  # beside a length: what smuggling is made of
        ("Content-Length: 5", (400,)),
        ("Content-Length : 5", (400,)),
        ("Authorization: Bearer nonsense", (401, 200)),
        (" folded: line", (400, 200)),
        ("x\x00y: z", (400,)),
        ("Upgrade: websocket\r\nConnection: upgrade", (200, 400, 426)),
        ("Expect: 100-continue", (200,)),
        ("TE: trailers", (200,)),
    ],
)
def test_an_unusual_head_is_looked_at_by_a_full_server(portal, raw_engine, known, head, statuses):
    """And never makes two requests of one."""
    before = len(raw_engine.received)
    lines, _, body = known.partition(b"\r\n\r\n")
    with Wire(portal) as wire:
        wire.send(lines + b"\r\n" + head.encode() + b"\r\n\r\n" + body)
        status = wire.answer()[0]
    assert status in statuses
    assert len(raw_engine.received) - before == (1 if status == 200 else 0)


def test_a_body_in_chunks_and_http_1_0_are_answered_too(portal, raw_engine, known):
    lines, _, body = known.partition(b"\r\n\r\n")
    chunked = re.sub(rb"content-length: \d+", b"transfer-encoding: chunked", lines)
    with Wire(portal) as wire:
        wire.send(chunked + b"\r\n\r\n" + chunk(body[:5]) + chunk(body[5:]) + b"0\r\n\r\n")
        assert wire.answer()[0] == 200
    with Wire(portal) as wire:
        wire.send(known.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        assert wire.answer()[0] == 200
        assert wire.closed()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_wants_its_connection_closed_gets_that(portal, alice, raw_engine, known, stream):
    raw_engine.answer = streaming if stream else whole(completion())
    data = request(portal, alice, {**CHAT, "stream": stream}, "POST /v1/chat/completions HTTP/1.1", "Connection: close")
    with Wire(portal) as wire:
        wire.send(data)
        status, headers, _ = wire.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert wire.closed()


def test_a_refusal_on_the_short_way_leaves_the_connection_open(portal, alice, known):
    with Wire(portal) as wire:
        for _ in range(2):
            wire.send(request(portal, alice, b"{"))
            status, headers, body = wire.answer()
            assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_json")
            assert headers["x-request-id"]
        wire.send(known)
        assert wire.answer()[0] == 200
    assert portal.long_way == 1


def test_who_sends_half_a_request_is_given_up(portal, known, write_timeout):
    write_timeout(0.4)
    for part in (known[:30], known[:-3], b"GET /healthz HTTP/1.1\r\n"):
        with Wire(portal) as wire:
            wire.send(part)
            assert wire.closed()


def test_a_slow_answer_is_no_idle_connection(portal, raw_engine, known, write_timeout):
    write_timeout(0.1)

    async def slow(received, writer):
        await asyncio.sleep(0.6)
        await whole(completion())(received, writer)

    raw_engine.answer = slow
    with Wire(portal) as wire:
        wire.send(known)
        assert wire.answer()[0] == 200


def test_a_client_that_takes_nothing_stops_the_engine(portal, alice, raw_engine, known, eventually):
    """What waits is in the sockets' buffers, and 64 KiB in the portal: not what the engine could send."""
    sent = []
    event = chunk(b"data: " + b"x" * 64_000 + b"\n\n")

    async def much(received, writer):
        writer.write(STREAM_HEAD)
        for _ in range(800):
            writer.write(event)
            await writer.drain()
            sent.append(len(event))
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    raw_engine.answer = much
    with Wire(portal) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        wire.send(request(portal, alice, {**CHAT, "stream": True}))
        held = -1
        while held != len(sent) or not sent:
            held = len(sent)
            time.sleep(0.15)
        assert sum(sent) < 25 * 2**20
        taken, last = 0, b""
        while not last.endswith(b"0\r\n\r\n"):
            last = wire.socket.recv(2**20)
            taken += len(last)
        assert len(sent) == 800
        assert taken > 800 * 64_000


def test_a_client_that_leaves_in_the_middle_of_its_body_holds_nothing(portal, raw_engine, known, eventually):
    before = len(raw_engine.received)
    with Wire(portal) as wire:
        wire.send(known[:-3])
    eventually(lambda: not any(isinstance(one, object) for one in portal.server.server_state.connections))
    assert len(raw_engine.received) == before


def test_a_stop_lets_the_answer_under_way_end(portal, alice, raw_engine, known):
    go_on = threading.Event()

    async def held(received, writer):
        event = EVENTS.split(b"\n\n")[0]
        writer.write(STREAM_HEAD + chunk(event + b"\n\n"))
        await writer.drain()
        await asyncio.to_thread(go_on.wait, 10)
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()

    raw_engine.answer = held
    with Wire(portal) as wire, Wire(portal) as idle:
        wire.send(request(portal, alice, {**CHAT, "stream": True}))
        while b"data: " not in wire.buffer:
            wire._read()
        portal.server.should_exit = True
        assert idle.closed()
        go_on.set()
        assert wire.answer()[2] == EVENTS
        assert wire.closed()


def test_an_answer_that_outlasts_the_stop_is_told_so(portal, alice, raw_engine, known):
    async def endless(received, writer):
        writer.write(STREAM_HEAD + chunk(EVENTS.split(b"\n\n")[0] + b"\n\n"))
        await writer.drain()
        await asyncio.sleep(60)

    raw_engine.answer = endless
    portal.server.config.timeout_graceful_shutdown = 1
    with Wire(portal) as wire:
        wire.send(request(portal, alice, {**CHAT, "stream": True}))
        while b"data: " not in wire.buffer:
            wire._read()
        portal.server.should_exit = True
        events = wire.answer()[2].split(b"\n\n")
    assert json.loads(events[1].removeprefix(b"data: "))["error"]["code"] == "unavailable"


@given(st.binary(max_size=200))
def test_any_bytes_as_a_head_are_read_or_left_to_the_full_server(data):
    read = Heads().read(data)
    assert read is None or (read[1] >= 0 and read[0].token)


@pytest.mark.parametrize(
    "fields",
    [
        b"content-length: 1\r\n",
        b"authorization: Bearer a\r\n",
        b"authorization: Basic a\r\ncontent-length: 1\r\n",
        b"authorization: Bearer a\r\ncontent-length: +1\r\n",
        b"authorization: Bearer a\r\ncontent-length: 1_0\r\n",
        b"authorization: Bearer a\r\ncontent-length: 1\r\ncontent-length: 1\r\n",
        b"authorization: Bearer a\r\ncontent-length: 1\nx: y\r\n",
        b"authorization: Bearer a\r\ncontent-length: 1\r\nx\r\n",
        b"authorization: Bearer a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n",
        b"authorization: Bearer a\r\nauthorization: Bearer b\r\ncontent-length: 1\r\n",
    ],
)
def test_heads_that_are_not_read(fields):
    heads = Heads()
    assert heads.read(b"authorization: Bearer a\r\ncontent-length: 1\r\n") is not None
    assert heads.read(fields) is None


def test_a_head_that_is_read():
    read = Heads().read(b"Host: x\r\nAuthorization:  bearer abc \r\nContent-Length: 12\r\nX-Request-ID: mine\r\n")
    assert read is not None
    head, length = read
    assert (head.token, length, head.identity, head.close) == (b"abc", 12, "mine", False)


def test_heads_are_remembered_but_for_their_length_and_never_with_an_id():
    heads = Heads(most=2)

    def read(token: bytes, length: int, more: bytes = b""):
        return heads.read(b"Authorization: Bearer %b\r\n%bContent-Length: %d\r\n" % (token, more, length))

    (first, one), (again, two) = read(b"a", 1), read(b"a", 2)
    assert first is again
    assert (one, two) == (1, 2)
    assert read(b"b", 1)[0].token == b"b"
    ids = {read(b"a", 1, b"X-Request-ID: %b\r\n" % given)[0].identity for given in (b"mine", b"bad id", b"bad id")}
    assert len(ids) == 3
    for token in (b"c", b"d", b"e"):  # more than are kept
        assert read(token, 1)[0].token == token
    assert read(b"a", 1)[0].token == b"a"
    assert len(heads._known) <= 2
