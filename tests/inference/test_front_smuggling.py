"""Heads that could be read in two ways, on a client's connection, in memory. Whatever is sent: nothing comes through
but what a strict reading of RFC 9112 gives, in order, and the portal answers as uvicorn alone does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference.front import Front
from tests.fakes.strict import read_requests
from tests.inference.test_front_framing import CHAT, KINDS, KNOWN, chat, converse, pieces_of, spoken, with_plane
from tests.thorough import examples

HIDDEN = spoken("POST /smuggled HTTP/1.1", KNOWN, body=b"x=y")
SIZE = f"Content-Length: {len(HIDDEN)}"

# Header lines that make a body's length a question, or the head unreadable. The body is a request.
ABSURD = {
    "two lengths": (SIZE, "Content-Length: 0"),
    "two lengths, the other first": ("Content-Length: 0", SIZE),
    "the same length twice": (SIZE, SIZE),
    "a list of lengths": (f"{SIZE}, 0",),
    "a list of the same": (f"{SIZE}, {len(HIDDEN)}",),
    "a length and chunks": (SIZE, "Transfer-Encoding: chunked"),
    "chunks and a length": ("Transfer-Encoding: chunked", SIZE),
    "chunks twice": ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "chunks, and more": ("Transfer-Encoding: chunked, identity", SIZE),
    "something like chunks": ("Transfer-Encoding: xchunked", SIZE),
    "chunks with a tab": ("Transfer-Encoding:\tchunked", SIZE),
    "chunks, folded": ("Transfer-Encoding:", " chunked", SIZE),
    "chunks behind a vertical tab": ("Transfer-Encoding: \x0bchunked", SIZE),
    "a space before the colon": (f"Content-Length : {len(HIDDEN)}",),
    "a space before the colon of another": (SIZE, "Transfer-Encoding : chunked"),
    "a space before the name": (SIZE, " Transfer-Encoding: chunked"),
    "a folded length": ("Content-Length: 1", " 0"),
    "a folded line": ("X-A: b", " c", SIZE),
    "a bare LF": (f"X-A: b\n{SIZE}",),
    "a bare CR": (f"X-A: b\r{SIZE}",),
    "a bare LF and chunks": (SIZE, "X-A: b\nTransfer-Encoding: chunked"),
    "the head's end by LF": (f"{SIZE}\r\n\nX-A: b",),
    "the head's end by two LF": (f"{SIZE}\n\nX-A: b",),
    "a NUL in a name": (SIZE, "X\0-A: b"),
    "a NUL in a value": (SIZE, "X-A: b\0"),
    "a NUL behind the length": (f"{SIZE}\0",),
    "a signed length": (f"Content-Length: +{len(HIDDEN)}",),
    "a negative length": ("Content-Length: -1",),
    "a hexadecimal length": (f"Content-Length: {len(HIDDEN):#x}",),
    "a length with an underscore": ("Content-Length: 1_0",),
    "a length of other digits": ("Content-Length: \N{SUPERSCRIPT TWO}",),
    "a huge length": (f"Content-Length: {2**64 + len(HIDDEN)}",),
    "a vertical tab behind the length": (f"{SIZE}\x0b",),
    "the length of something else": ("X-Content-Length: 3", SIZE),
    "an empty length": ("Content-Length:",),
    "a length with zeros": (f"Content-Length: 000{len(HIDDEN)}",),
    "a name that is none": (SIZE, "X-(A): b"),
    "an empty name": (SIZE, ": b"),
    "no colon": (SIZE, "nonsense"),
    "an underscore for the dash": (SIZE, "Transfer_Encoding: chunked"),
    "two keys": (SIZE, "Authorization: Bearer other"),
    "a coded body": (SIZE, "Content-Encoding: gzip"),
    "it asks first": (SIZE, "Expect: 100-continue"),
    "it expects what nobody does": (SIZE, "Expect: 200-ok"),
    "a connection that is close to closing": (SIZE, "Connection: x-close, keep-alive"),
    "a connection to be closed": (SIZE, "Connection: keep-alive, close"),
    "a long name": (SIZE, "X" * 9000 + ": b"),
    "many lines": (SIZE, *[f"X-{number}: {number}" for number in range(2000)]),
}
LINES = {
    "chat": CHAT,
    "page": "POST /page HTTP/1.1",
    "two spaces": "POST  /v1/chat/completions HTTP/1.1",
    "a tab": "POST\t/v1/chat/completions HTTP/1.1",
    "a space behind": "POST /v1/chat/completions HTTP/1.1 ",
    "small": "post /v1/chat/completions HTTP/1.1",
    "HTTP/1.0": "POST /v1/chat/completions HTTP/1.0",
    "HTTP/1.2": "POST /v1/chat/completions HTTP/1.2",
    "HTTP/2": "POST /v1/chat/completions HTTP/2.0",
    "HTTP/0.9": "POST /v1/chat/completions",
    "absolute": "POST http://portal/v1/chat/completions HTTP/1.1",
    "absolute, of somebody else": "POST http://other/v1/chat/completions HTTP/1.1",
    "with a question": "POST /v1/chat/completions?x=y HTTP/1.1",
    "with a fragment": "POST /v1/chat/completions#x HTTP/1.1",
    "two slashes": "POST //v1/chat/completions HTTP/1.1",
    "dots": "POST /v1/../v1/chat/completions HTTP/1.1",
    "percent": "POST /v1/chat%2Fcompletions HTTP/1.1",
    "star": "OPTIONS * HTTP/1.1",
    "connect": "CONNECT portal:443 HTTP/1.1",
    "HTTP/2's preface": "PRI * HTTP/2.0",
}


REFUSED = [(400, b"Invalid HTTP request received.")]


def headed(line: str, *fields: str) -> bytes:
    return "\r\n".join([line, "Host: portal", KNOWN, *fields]).encode() + b"\r\n\r\n" + HIDDEN


@pytest.mark.parametrize("line", ["chat", "page"])
@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_head_is_answered_as_by_uvicorn_and_hides_no_request(name, line):
    data = headed(LINES[line], *ABSURD[name])
    head = data.index(HIDDEN)

    async def test(plane):
        alone = await converse(plane, HttpToolsProtocol, [data])
        assert "/smuggled" not in [path for _, _, path, _ in alone[1]]
        # At the places that count, and some others: the lines are long.
        cuts = {*range(1, len(data), max(7, len(data) // 40)), head - 4, head - 2, head, head + 1, len(data) - 1}
        for cut in sorted(cuts):
            assert await converse(plane, Front, [data[:cut], data[cut:]]) == alone
        assert await converse(plane, Front, pieces_of(data, list(range(0, len(data), 3)))) == alone
        # And after one whose other lines are the same, or are this one's.
        for first in (headed(LINES[line], SIZE), headed(LINES[line], SIZE, *ABSURD[name]), data):
            after = await converse(plane, HttpToolsProtocol, [first, data])
            assert await converse(plane, Front, [first, data]) == after

    with_plane(test)


@pytest.mark.parametrize("name", LINES)
def test_an_absurd_request_line_is_answered_as_by_uvicorn(name):
    data = headed(LINES[name], SIZE)

    async def test(plane):
        alone = await converse(plane, HttpToolsProtocol, [data])
        for cut in range(1, len(data), 3):
            assert await converse(plane, Front, [data[:cut], data[cut:]]) == alone

    with_plane(test)


@pytest.mark.parametrize("wish", ["Upgrade: h2c", "Upgrade: websocket", "uPGRADE: h2c, websocket", "Upgrade: a\t "])
@pytest.mark.parametrize("line", ["chat", "page"])
def test_a_wish_for_another_protocol_is_passed_over_wherever_it_is_cut(wish, line):
    """And the connection is there for the next request."""
    data = headed(LINES[line], wish, "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk", SIZE)

    async def test(plane):
        plain = await converse(plane, HttpToolsProtocol, [headed(LINES[line], SIZE), KINDS["a page"][0]])
        for cut in range(1, len(data)):
            assert await converse(plane, Front, [data[:cut], data[cut:], KINDS["a page"][0]]) == plain
            assert await converse(plane, Front, [data[:cut], data[cut:] + KINDS["a page"][0]]) == plain
        assert await converse(plane, Front, [KINDS["a page"][0] + data]) == (plain[0][::-1], plain[1][::-1], False)

    with_plane(test)


@pytest.mark.parametrize("line", ["chat", "page"])
def test_a_body_that_comes_alone_is_no_request_because_its_head_wished_for_another_protocol(line):
    data = headed(LINES[line], "Upgrade: websocket", "Connection: upgrade", SIZE)
    head = len(data) - len(HIDDEN)

    async def test(plane):
        for cut in range(1, head, 5):
            _, seen, _ = await converse(plane, Front, [data[:cut], data[cut:head], HIDDEN])
            assert "/smuggled" not in [path for _, _, path, _ in seen]

    with_plane(test)


@pytest.mark.parametrize("line", [CHAT, "POST /v1/models HTTP/1.1", "PUT /v1/nothing HTTP/1.1"])
def test_a_body_that_comes_after_its_answer_is_no_request(line):
    """Refused by its head, a request is answered before its body comes, which looks like one that is let through."""
    body = KINDS["short"][0]
    data = spoken(line, "Authorization: Bearer nobody", body=body)

    async def test(plane):
        for cut in range(len(data) - len(body) - 3, len(data) - len(body) + 3):
            answers, seen, _ = await converse(plane, Front, [data[:cut], data[cut:], KINDS["a page"][0]])
            assert [status for status, _ in answers] == [401, 200]
            assert [path for _, _, path, _ in seen] == ["/page"]

    with_plane(test)


def test_a_header_that_looks_like_a_request_is_none():
    header = spoken(CHAT, KNOWN, body=chat("hidden"))
    data = b"GET /page HTTP/1.1\r\nX-A: " + header

    async def test(plane):
        answers, seen, _ = await converse(plane, Front, [data[: -len(header)], header])
        assert [status for status, _ in answers] == [200]
        assert [path for _, _, path, _ in seen] == ["/page"]

    with_plane(test)


def test_the_portal_is_no_tunnel():
    data = b"CONNECT /page HTTP/1.1\r\nHost: portal\r\n\r\n" + HIDDEN

    async def test(plane):
        for cut in range(1, len(data)):
            assert await converse(plane, Front, [data[:cut], data[cut:]]) == (REFUSED, [], True)

    with_plane(test)


@given(
    name=st.sampled_from(sorted(ABSURD)),
    line=st.sampled_from(sorted(LINES)),
    before=st.lists(st.sampled_from(sorted(KINDS)), max_size=2),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
    waits=st.booleans(),
)
@examples(250)
def test_requests_around_an_absurd_one_are_those_that_a_strict_reader_sees(name, line, before, cuts, waits):
    data = b"".join(KINDS[kind][0] for kind in before)
    data += headed(LINES[line], *ABSURD[name]) + KINDS["a page"][0]

    async def test(plane):
        alone = await converse(plane, HttpToolsProtocol, [data])
        answers, seen, _ = await converse(plane, Front, pieces_of(data, cuts), waits=waits)
        assert "/smuggled" not in [path for _, _, path, _ in seen]
        assert seen[: len(alone[1])] == alone[1]
        assert len(answers) <= len(before) + 2

    with_plane(test)


_WORDS = [
    b"\r\n", b"\r", b"\n", b" ", b":", b"0", b"1", b",", b"\0", b"\t", b"\xff", b";a=b", b"chunked", b"HTTP/1.1",
    HIDDEN, b"\r\n\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Connection: close\r\n",
]  # fmt: skip


@st.composite
def spoilt(draw) -> bytes:
    """A request or two, with some bytes put in, taken out or written twice."""
    data = b"".join(draw(st.lists(st.sampled_from([one for one, _ in KINDS.values()]), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(at + 30, len(data))))
        data = data[:at] + draw(st.sampled_from([b"", data[at:to] * 2, *_WORDS])) + data[to:]
    return data


@given(data=spoilt(), cuts=st.lists(st.integers(0, 10_000), max_size=6))
@examples(400)
def test_spoilt_requests_are_answered_as_by_uvicorn(data, cuts):
    async def test(plane):
        strict, standing = read_requests(data)
        alone = await converse(plane, HttpToolsProtocol, [data])
        front = await converse(plane, Front, pieces_of(data, cuts) if data else [])
        assert front[1][: len(alone[1])] == alone[1]
        if standing in ("whole", "closed") and all(one.method in ("GET", "PUT", "POST") for one in strict):
            assert front == alone
            assert len(front[0]) == len(strict)

    with_plane(test)
