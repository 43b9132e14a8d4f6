"""Where requests begin and end on a client's connection: the portal's own reader beside uvicorn's, in memory. The same
bytes, in whatever pieces, must be the same requests and give the same answers."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference.front import Front
from tests.fakes.memory import held
from tests.fakes.plane import ENGINE, TOKEN, Plane
from tests.fakes.strict import read_answers
from tests.fakes.upstream import chunk, event, http, last_event, sse
from tests.thorough import examples

KNOWN = f"Authorization: Bearer {TOKEN}"
CHAT = "POST /v1/chat/completions HTTP/1.1"


def spoken(line: str, *fields: str, body: bytes = b"", chunks: int = 0) -> bytes:
    """A request; its body with its length, or in chunks of `chunks` bytes."""
    head = "\r\n".join([line, "Host: portal", *fields]).encode()
    if chunks:
        parts = [chunk(body[start : start + chunks]) for start in range(0, len(body), chunks)]
        return head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(parts) + b"0\r\n\r\n"
    length = b"\r\nContent-Length: %d" % len(body) if body or line.startswith("POST") else b""
    return head + length + b"\r\n\r\n" + body


def chat(said: str, **more: str) -> bytes:
    fields = "".join(f', "{name}": {value}' for name, value in more.items())
    return b'{"model": "tiny", "messages": [{"role": "user", "content": "%b"}]%b}' % (said.encode(), fields.encode())


# What a client may say, and what it is answered.
KINDS: dict[str, tuple[bytes, int]] = {
    "short": (spoken(CHAT, KNOWN, body=chat("short")), 200),
    "short, with much": (spoken(CHAT, "Accept: */*", KNOWN, "Cookie: a=b", "X-Request-Id: mine", body=chat("m")), 200),
    "stream": (spoken(CHAT, KNOWN, body=chat("s", stream="true")), 200),
    "to an engine": (spoken(f"POST /engines/{ENGINE}/v1/chat/completions HTTP/1.1", KNOWN, body=chat("e")), 200),
    "no JSON": (spoken(CHAT, KNOWN, body=b"{"), 400),
    "no body": (spoken(CHAT, KNOWN), 400),
    "no such model": (spoken(CHAT, KNOWN, body=chat("n").replace(b"tiny", b"none")), 404),
    "nobody": (spoken(CHAT, "Authorization: Bearer nobody", body=chat("nobody")), 401),
    "no key": (spoken(CHAT, body=chat("no key")), 401),
    "in chunks": (spoken(CHAT, KNOWN, body=chat("in chunks"), chunks=7), 200),
    "asks first": (spoken(CHAT, KNOWN, "Expect: 100-continue", body=chat("asks first")), 200),
    "models": (spoken("GET /v1/models HTTP/1.1", KNOWN), 200),
    "a page": (spoken("GET /page?a=b HTTP/1.1", "Cookie: a=b"), 200),
    "a form": (spoken("POST /form HTTP/1.1", body=b"a=b\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"), 200),
    "a request in a chat": (spoken(CHAT, KNOWN, body=b"POST /smuggled HTTP/1.1\r\n\r\n"), 400),
    "a request in chunks": (spoken("PUT /x HTTP/1.1", body=b"GET /smuggled HTTP/1.1\r\n\r\n", chunks=5), 200),
    "a request in a chunk": (spoken("PUT /x HTTP/1.1", body=b"GET /smuggled HTTP/1.1\r\n\r\n", chunks=99), 200),
    "absolute": (spoken("POST http://portal/v1/chat/completions HTTP/1.1", KNOWN, body=chat("absolute")), 200),
    "blank lines before it": (b"\r\n\r\n" + spoken(CHAT, KNOWN, body=chat("blank")), 200),
}
LAST: dict[str, tuple[bytes, int]] = {
    "close": (spoken(CHAT, KNOWN, "Connection: close", body=chat("close")), 200),
    "close the page": (spoken("GET /page HTTP/1.1", "Connection: close"), 200),
    "HTTP/1.0": (spoken("POST /v1/chat/completions HTTP/1.0", KNOWN, body=chat("old")), 200),
}


def streaming(asked):
    """The engine answers as it is asked to."""
    if b'"stream":true' not in asked.body.replace(b" ", b""):
        return http(asked.body)
    events = sse(event("a", 7, 1), event("b", 7, 2), last_event(7, 2), b"[DONE]")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + chunk(events) + b"0\r\n\r\n"


async def converse(plane: Plane, protocol, pieces, *, waits=True):
    """Sends the pieces, and gives what came of it: answers, the requests that came through, whether it was closed."""
    before = len(plane.seen.requests)
    client = plane.client(protocol)
    for piece in pieces:
        client.arrive(piece)
        if waits:
            await plane.loop.settle()
    await plane.loop.settle()
    answers = [(one.status, one.body) for one in read_answers(bytes(client.taken))]
    closed = client.lost
    client.leave()
    await plane.loop.settle()
    return answers, [tuple(one) for one in plane.seen.requests[before:]], closed


def with_plane(test):
    """Runs `test(plane)`; at its end nothing is open."""

    async def main(loop):
        plane = await Plane(loop).known()
        plane.engine.answer = streaming
        try:
            return await test(plane)
        finally:
            await plane.close()
            plane.ledger.check()
            assert not plane.gateway.relay.running
            assert not plane.state.connections

    return held(main)


async def expected(plane: Plane, data: list[bytes]):
    """What uvicorn alone answers to requests that come one at a time, each whole."""
    return await converse(plane, HttpToolsProtocol, data)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("kind", [*KINDS, *LAST])
def test_a_request_cut_anywhere_is_answered_as_by_uvicorn(kind):
    data, status = (KINDS | LAST)[kind]

    async def test(plane):
        whole = await expected(plane, [data])
        assert [one for one, _ in whole[0]] == [status]
        assert whole[2] is (kind in LAST)
        for cut in range(1, len(data)):
            assert await converse(plane, Front, [data[:cut], data[cut:]]) == whole
        assert await converse(plane, Front, [bytes([byte]) for byte in data]) == whole

    with_plane(test)


@pytest.mark.parametrize("first", ["short", "a page", "stream", "no JSON", "in chunks"])
@pytest.mark.parametrize("second", ["short", "a form"])
def test_two_requests_cut_anywhere_are_two(first, second):
    """The second one's beginning comes with the first, or while it is being answered."""
    data = KINDS[first][0] + KINDS[second][0]

    async def test(plane):
        whole = await expected(plane, [KINDS[first][0], KINDS[second][0]])
        assert len(whole[0]) == 2
        for cut in range(0, len(data), 3):
            for waits in (True, False):
                assert await converse(plane, Front, [data[:cut], data[cut:]], waits=waits) == whole

    with_plane(test)


def test_what_comes_in_the_turn_in_which_an_answer_ends_stays_behind_what_came_before():
    """The rest of a body is no request, whatever it looks like."""
    first, smuggled = KINDS["short"][0], b"GET /smuggled HTTP/1.1\r\nHost: portal\r\n\r\n"
    second = spoken("POST /form HTTP/1.1", body=b"a=b" + smuggled)

    async def test(plane):
        plane.engine.answer = lambda asked: b""
        for cut in (1, 30, len(second) - len(smuggled)):
            client = plane.client()
            client.arrive(first + second[:cut])
            await plane.loop.settle()
            plane.engine.lines[-1].arrive(http(b"{}"))
            client.arrive(second[cut:])
            await plane.loop.settle()
            assert [one.status for one in read_answers(bytes(client.taken))] == [200, 200]
            assert [one.path for one in plane.seen.requests] == ["/v1/chat/completions", "/form"]
            plane.seen.requests.clear()
            client.leave()

    with_plane(test)


def test_much_that_comes_ahead_is_read_on_when_its_turn_comes():
    first, second = KINDS["short"][0], spoken(CHAT, KNOWN, body=chat("x" * 300_000))

    async def test(plane):
        client = plane.client()
        client.arrive(first)
        for piece in pieces_of(second, list(range(0, len(second), 50_000))):
            client.arrive(piece)
        assert not client.reading
        await plane.loop.settle()
        assert len(read_answers(bytes(client.taken))) == 2
        client.leave()

    with_plane(test)


def test_nobody_is_asked_for_a_client_that_has_left_meanwhile():
    async def test(plane):
        client = plane.client()
        client.arrive(KINDS["no JSON"][0] + KINDS["short"][0])
        client.leave()
        await plane.loop.settle()
        assert plane.seen.requests == []

    with_plane(test)


@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=6),
    last=st.sampled_from([None, *sorted(LAST)]),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    waits=st.booleans(),
)
@examples(250)
def test_any_requests_in_any_pieces_are_answered_in_their_order(kinds, last, cuts, waits):
    requests = [KINDS[kind] for kind in kinds] + ([LAST[last]] if last else [])

    async def test(plane):
        whole = await expected(plane, [data for data, _ in requests])
        assert [status for status, _ in whole[0]] == [status for _, status in requests]
        assert whole[2] is (last is not None)
        data = b"".join(data for data, _ in requests)
        assert await converse(plane, Front, pieces_of(data, cuts), waits=waits) == whole

    with_plane(test)


def test_most_of_these_went_the_short_way():
    async def test(plane):
        for kind in (
            "short",
            "short, with much",
            "stream",
            "to an engine",
            "no JSON",
            "no body",
            "a request in a chat",
        ):
            await converse(plane, Front, [KINDS[kind][0]])
        assert plane.long_way == 0
        for count, kind in enumerate(("nobody", "no key", "in chunks", "asks first", "a page"), 1):
            await converse(plane, Front, [KINDS[kind][0]])
            assert plane.long_way == count

    with_plane(test)


@pytest.mark.parametrize("before", ["short", "a page", "nobody", "in chunks"])
def test_a_stop_lets_the_stream_under_way_end_whatever_the_connection_served_before(before):
    async def test(plane):
        plane.engine.answer = lambda asked: b"" if b"stream" in asked.body else http(b"{}")
        client = plane.client()
        client.arrive(KINDS[before][0])
        await plane.loop.settle()
        client.arrive(KINDS["stream"][0])
        await plane.loop.settle()
        for connection in list(plane.state.connections):  # as uvicorn does when it stops
            connection.shutdown()
        await plane.loop.settle()
        asked = next(one for one in plane.seen.requests if b"stream" in one.body)
        plane.engine.lines[-1].arrive(streaming(asked))
        await plane.loop.settle()
        last = read_answers(bytes(client.taken))[-1]
        assert (last.status, last.headers[b"connection"]) == (200, b"close")
        assert last.body.endswith(b"data: [DONE]\n\n")
        assert client.lost

    with_plane(test)
