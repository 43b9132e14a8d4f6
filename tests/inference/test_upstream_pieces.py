"""An engine's answer in every piece and with every fault, in memory. Its taker gets the body once and one end; the
connection is used again only after a whole answer that allows it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.pool import Pool
from inference.upstream import MAX_HEAD, Broken, Timeouts
from tests.fakes.memory import held
from tests.fakes.upstream import chunk
from tests.thorough import examples

PATIENT = Timeouts(60, 60, 60, 60)
BODY = b"0123456789" * 3
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UVICORN = b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
INNER = UVICORN + b"content-length: 30\r\n\r\n" + BODY
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

# Answers that end: status, body, whether the connection may be used again.
WHOLE: dict[str, tuple[bytes, int, bytes, bool]] = {
    "a length": (LENGTH + BODY, 200, BODY, True),
    "as uvicorn writes it": (UVICORN + b"content-length: 30\r\ncontent-type: a/b\r\n\r\n" + BODY, 200, BODY, True),
    "nothing, so written": (UVICORN + b"content-length: 0\r\n\r\n", 200, b"", True),
    "more than that": (UVICORN + b"content-length: 29\r\n\r\n" + BODY, 200, BODY[:29], False),
    "so written, twice": ((UVICORN + b"content-length: 30\r\n\r\n" + BODY) * 2, 200, BODY, False),
    "so written, and closes": (UVICORN + b"content-length: 30\r\nconnection: close\r\n\r\n" + BODY, 200, BODY, False),
    "no content, but bytes": (b"HTTP/1.1 204 X\r\ncontent-length: 30\r\n\r\n" + BODY, 204, b"", False),
    "not changed, but bytes": (b"HTTP/1.1 304 X\r\ncontent-length: 30\r\n\r\n" + BODY, 304, b"", False),
    "an answer in an answer": (b"HTTP/1.1 200 OK\r\nContent-Length: 123\r\n\r\n" + INNER, 200, INNER, True),
    "chunks": (CHUNKED + chunk(BODY[:4]) + chunk(BODY[4:]) + b"0\r\n\r\n", 200, BODY, True),
    "chunks with more": (CHUNKED + b"1e;a=b\r\n" + BODY + b"\r\n0\r\nX-A: b\r\n\r\n", 200, BODY, True),
    "hints before it": (HINTS + HINTS + LENGTH + BODY, 200, BODY, True),
    "go on before it": (b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH + BODY, 200, BODY, True),
    "nothing": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
    "no chunks": (CHUNKED + b"0\r\n\r\n", 200, b"", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "a refusal": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", 404, b"{}", True),
    "it closes": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 30\r\n\r\n" + BODY, 200, BODY, False),
    "it closes after chunks": (
        b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunk(BODY) + b"0\r\n\r\n",
        500, BODY, False,
    ),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 30\r\n\r\n" + BODY, 200, BODY, False),
    "a second answer": (LENGTH + BODY + LENGTH + BODY, 200, BODY, False),
    "bytes after it": (LENGTH + BODY + b"x", 200, BODY, False),
    "bytes after chunks": (CHUNKED + chunk(BODY) + b"0\r\n\r\nx", 200, BODY, False),
    "hints after it": (LENGTH + BODY + HINTS, 200, BODY, False),
}  # fmt: skip
# Answers that never end, or are none.
BROKEN = {
    "no length": b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\n" + BODY,
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "two lengths, as uvicorn writes them": UVICORN + b"content-length: 30\r\ncontent-length: 29\r\n\r\n" + BODY,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\nContent-Length: 3\r\n\r\n" + BODY,
    "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
    "a wrong chunk": CHUNKED + b"zz\r\n" + BODY,
    "a chunk that is too long": CHUNKED + b"3\r\n" + BODY,
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + BODY,
    "no status": b"HTTP/1.1 011 Continue\r\n\r\n" + LENGTH + BODY,
    "status nought": b"HTTP/1.1 000 X\r\nContent-Length: 30\r\n\r\n" + BODY,
    "an interim answer with a body": b"HTTP/1.1 199 X\r\nContent-Length: 30\r\n\r\n" + BODY + LENGTH + BODY,
    "a request": b"GET / HTTP/1.1\r\n\r\n",
    "a folded line": b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 30\r\n\r\n" + BODY,
    "a NUL": b"HTTP/1.1 200 OK\r\nX-A: \0\r\nContent-Length: 30\r\n\r\n" + BODY,
    "a long head": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 2 * MAX_HEAD,
    "many hints": HINTS * (MAX_HEAD // len(HINTS) + 2),
}


class Taken:
    """Takes an answer and says what it must be: `head`, then data, then one end. `leaves_at`: the call at which it does
    not want the answer any more."""

    def __init__(self, leaves_at: int = -1):
        self.line = None
        self.calls: list[str] = []
        self.status, self.body = 0, b""
        self.headers: dict[bytes, bytes] = {}
        self._leaves_at = leaves_at
        self.left = False

    def _called(self, name: str, *after: str) -> None:
        assert not self.left
        assert (self.calls or ["post"])[-1] in after, f"{name} after {self.calls}"
        self.calls.append(name)
        if len(self.calls) - 1 == self._leaves_at:
            self.left = True
            if name in ("head", "data"):
                self.line.abandon()

    def head(self, status, headers):
        assert all(name == name.lower() for name, _ in headers)
        self.headers = dict(headers)
        self.status = status
        self._called("head", "post")

    def data(self, data):
        assert data
        self.body += data
        self._called("data", "head", "data")

    def end(self):
        self._called("end", "head", "data")

    def failed(self, error):
        assert isinstance(error, Broken)
        self._called("failed", "post", "head", "data")


class Engine:
    """One engine, of which the test has the other ends of the connections."""

    def __init__(self, loop):
        self.loop = loop
        self.lines = []
        loop.servers[1] = self.lines.append
        self.pool = Pool()

    async def post(self, leaves_at: int = -1):
        taken = Taken(leaves_at)
        taken.line = self.pool.post(("engine", 1), b"POST / HTTP/1.1\r\n", b"{}", PATIENT, taken)
        await self.loop.settle()
        return taken, self.lines[-1]

    async def check(self, kept: bool, count: int) -> None:
        """Nothing is under way, and the next request goes on the same connection, or on a new one."""
        await self.loop.settle()
        assert not self.pool.busy
        assert not self.pool.connecting
        assert self.lines[-1].is_closing() is not kept
        assert len(self.lines) == count
        taken, line = await self.post()
        assert len(self.lines) == count + (not kept)
        line.arrive(LENGTH + BODY)
        await self.loop.settle()
        assert (taken.body, taken.calls[-1]) == (BODY, "end")
        line.leave()
        await self.loop.settle()


def with_engine(test):
    async def main(loop):
        engine = Engine(loop)
        try:
            await test(engine)
        finally:
            engine.pool.close()

    held(main)


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_cut_anywhere_is_given_once_and_ends_once(name):
    data, status, body, kept = WHOLE[name]

    async def test(engine):
        for cut in range(1, len(data) + 1):
            taken, line = await engine.post()
            before = len(engine.lines)
            line.arrive(data[:cut])
            line.arrive(data[cut:])
            assert (taken.status, taken.body, taken.calls[-1]) == (status, body, "end")
            assert b"link" not in taken.headers
            await engine.check(kept, before)

    with_engine(test)


@pytest.mark.parametrize("name", [*WHOLE, *BROKEN])
def test_a_connection_closed_anywhere_ends_the_answer_once(name):
    """As a failure, unless it was whole by then."""
    data = WHOLE[name][0] if name in WHOLE else BROKEN[name][:500]

    async def test(engine):
        for cut in range(len(data)):
            taken, line = await engine.post()
            line.arrive(data[:cut])
            line.leave()
            await engine.loop.settle()
            whole = name in WHOLE and taken.body == WHOLE[name][2] and taken.status == WHOLE[name][1]
            assert taken.calls[-1] == "failed" or (whole and taken.calls[-1] == "end")
            assert name in BROKEN or WHOLE[name][2].startswith(taken.body)
            await engine.check(False, len(engine.lines))

    with_engine(test)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_answer_fails_once_wherever_it_is_cut(name):
    data = BROKEN[name]

    async def test(engine):
        for cut in range(1, len(data), max(1, len(data) // 60)):
            taken, line = await engine.post()
            line.arrive(data[:cut])
            line.arrive(data[cut:])
            line.leave()
            await engine.loop.settle()
            assert taken.calls[-1] == "failed"
            assert "end" not in taken.calls
            await engine.check(False, len(engine.lines))

    with_engine(test)


@pytest.mark.parametrize("name", ["a long head", "many hints"])
def test_a_head_without_end_fails_before_its_end(name):
    async def test(engine):
        taken, line = await engine.post()
        data = BROKEN[name]
        for start in range(0, len(data), 1000):
            line.arrive(data[start : start + 1000])
        assert taken.calls == ["failed"]
        await engine.check(False, 1)

    with_engine(test)


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_given_up_anywhere_is_silent_and_its_connection_closed(name):
    data = WHOLE[name][0]

    async def test(engine):
        for cut in range(len(data)):
            taken, line = await engine.post()
            line.arrive(data[:cut])
            if taken.calls and taken.calls[-1] == "end":
                break
            calls = list(taken.calls)
            taken.line.abandon()
            line.arrive(data[cut:])
            await engine.loop.settle()
            assert taken.calls == calls
            await engine.check(False, len(engine.lines))

    with_engine(test)


@pytest.mark.parametrize("name", WHOLE)
def test_a_taker_may_give_up_in_each_of_its_calls(name):
    data, _, _, kept = WHOLE[name]

    async def test(engine):
        for step in (1, 7, len(data)):
            for leaves_at in range(40):
                taken, line = await engine.post(leaves_at)
                for start in range(0, len(data), step):
                    line.arrive(data[start : start + step])
                if taken.left:
                    await engine.check(kept and taken.calls[-1] == "end", len(engine.lines))

    with_engine(test)


@given(
    names=st.lists(st.sampled_from(sorted(WHOLE)), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    pauses=st.lists(st.booleans(), max_size=8),
)
@examples(200)
def test_answers_one_after_another_in_any_pieces_with_any_pauses(names, cuts, pauses):
    async def test(engine):
        for name in names:
            data, status, body, kept = WHOLE[name]
            taken, line = await engine.post()
            before = len(engine.lines)
            edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
            for (start, end), pause in zip(pairwise(edges), pauses + [False] * len(edges), strict=False):
                if pause:
                    taken.line.pause()
                    seen = list(taken.calls)
                line.arrive(data[start:end])
                await engine.loop.settle()
                if pause:
                    assert taken.calls == seen
                    taken.line.resume()
                await engine.loop.settle()
            assert (taken.status, taken.body, taken.calls[-1]) == (status, body, "end")
            await engine.check(kept, before)

    with_engine(test)


def test_a_pause_while_the_connection_is_being_made_counts():
    async def test(engine):
        taken = Taken()
        line = engine.pool.post(("engine", 1), b"POST / HTTP/1.1\r\n", b"{}", PATIENT, taken)
        line.pause()
        await engine.loop.settle()
        engine.lines[-1].arrive(LENGTH + BODY)
        await engine.loop.settle()
        assert taken.calls == []
        line.resume()
        await engine.check(True, 1)
        assert taken.calls[-1] == "end"

    with_engine(test)


@given(
    data=st.binary(max_size=80),
    name=st.sampled_from([*WHOLE, *BROKEN]),
    at=st.integers(0, 300),
    cut=st.integers(1, 300),
)
@examples(300)
def test_whatever_comes_the_taker_is_told_one_end(data, name, at, cut):
    told = WHOLE[name][0] if name in WHOLE else BROKEN[name][:500]
    told = told[: at % (len(told) + 1)] + data + told[at % (len(told) + 1) :]

    async def test(engine):
        taken, line = await engine.post()
        line.arrive(told[:cut])
        line.arrive(told[cut:])
        line.leave()
        await engine.loop.settle()
        assert taken.calls[-1] in ("end", "failed")
        assert not engine.pool.busy

    with_engine(test)
