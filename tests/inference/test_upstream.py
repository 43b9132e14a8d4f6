"""The connection to an engine, against servers that send what no server should, at every place where a read may end."""

import asyncio
import contextlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.pool import Pool
from inference.upstream import Broken, CannotConnect, TimedOut, Timeouts, UpstreamError
from tests.fakes.upstream import chunk, http

HEAD = b"POST /x HTTP/1.1\r\nhost: engine\r\n"
QUICK = Timeouts(connect=2, first_byte=2, idle=2, total=5)
IMPATIENT = Timeouts(connect=0.3, first_byte=0.3, idle=0.3, total=0.6)


class Taken:
    """Takes an answer, and remembers it. The test waits for what it wants to see."""

    def __init__(self):
        self.calls = []
        self.status = 0
        self.body = bytearray()
        self.error = None
        self.ended = asyncio.Event()
        self.came = asyncio.Event()

    def head(self, status, headers):
        self.calls.append("head")
        self.status = status
        self.came.set()

    def data(self, data):
        self.calls.append("data")
        self.body += data
        self.came.set()

    def end(self):
        self.calls.append("end")
        self.ended.set()

    def failed(self, error: UpstreamError):
        self.calls.append("failed")
        self.error = error
        self.ended.set()

    async def answer(self):
        """(status, body). Raises what failed."""
        await asyncio.wait_for(self.ended.wait(), 10)
        if self.error:
            raise self.error
        return self.status, self.body


def exchange(serve, use, timeouts=QUICK):
    """Runs `use(pool, post)` against a server whose connections `serve(reader, writer)` handles; `post()` gives
    (line, taken)."""

    async def main():
        handlers = set()

        async def guarded(reader, writer):
            handlers.add(asyncio.current_task())
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await serve(reader, writer)
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(guarded, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        pool = Pool()

        def post():
            taken = Taken()
            return pool.post(address, HEAD, b"{}", timeouts, taken), taken

        try:
            return await use(pool, post)
        finally:
            pool.close()
            server.close()
            for handler in handlers:
                handler.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
            await asyncio.sleep(0.01)  # the transports close their sockets

    return asyncio.run(main())


async def read_request(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(2)
    return head


def answers(*packets: bytes, close: bool = True):
    async def serve(reader, writer):
        await read_request(reader)
        for packet in packets:
            writer.write(packet)
            await writer.drain()
            await asyncio.sleep(0)
        if not close:
            await reader.read()

    return serve


async def whole(pool, post):
    _, taken = post()
    return await taken.answer()


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@given(cuts=st.lists(st.integers(1, 200), max_size=6), chunked=st.booleans())
@settings(max_examples=40, deadline=None)
def test_an_answer_is_the_same_wherever_reads_end(cuts, chunked):
    body = b"0123456789" * 5
    data = CHUNKED + chunk(body[:7]) + chunk(body[7:]) + b"0\r\n\r\n" if chunked else http(body)
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    packets = [data[start:end] for start, end in pairwise(edges)]
    assert exchange(answers(*packets, close=False), whole) == (200, body)


def test_a_first_read_larger_than_a_head_may_be_is_no_long_head():
    body = b"x" * 1_000_000
    assert exchange(answers(http(body), close=False), whole) == (200, body)


def test_interim_answers_are_passed_over():
    assert exchange(answers(b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + http(b"ok")), whole) == (200, b"ok")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        CHUNKED + b"5\r\nabc",
        CHUNKED + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-long: " + b"a" * 200_000,
    ],
)
def test_an_answer_that_breaks_off_or_is_none_is_broken(data):
    with pytest.raises(Broken):
        exchange(answers(data), whole)


def test_what_came_before_the_break_is_given_out_first():
    async def use(pool, post):
        _, taken = post()
        with pytest.raises(Broken):
            await taken.answer()
        assert taken.calls[0] == "head"
        assert taken.calls[-1] == "failed"
        return taken.body

    assert exchange(answers(CHUNKED, chunk(b"first"), chunk(b"last")), use) == b"firstlast"


def test_nobody_there_is_cannot_connect():
    async def main():
        pool, taken = Pool(), Taken()
        pool.post(("127.0.0.1", 1), HEAD, b"", QUICK, taken)
        with pytest.raises(CannotConnect):
            await taken.answer()
        pool.close()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_nothing_is_read_for_a_taker_that_pauses():
    sent = []

    async def serve(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED)
        for _ in range(400):
            writer.write(chunk(b"x" * 65536))
            await writer.drain()
            sent.append(1)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async def use(pool, post):
        line, taken = post()
        await asyncio.wait_for(taken.came.wait(), 5)
        line.pause()
        held = -1
        while held != len(sent):  # until the sockets' buffers are full
            held = len(sent)
            await asyncio.sleep(0.1)
        assert held < 400
        before = len(taken.body)
        await asyncio.sleep(0.05)
        assert len(taken.body) == before
        line.resume()
        assert await taken.answer() == (200, b"x" * 65536 * 400)

    exchange(serve, use)


def test_a_pause_of_the_client_is_no_silence_of_the_engine():
    async def use(pool, post):
        line, taken = post()
        await asyncio.wait_for(taken.came.wait(), 5)
        line.pause()
        await asyncio.sleep(IMPATIENT.idle + 0.6)
        assert taken.error is None
        line.resume()
        with pytest.raises(TimedOut):
            await taken.answer()

    timeouts = Timeouts(connect=2, first_byte=0.3, idle=0.3, total=30)
    exchange(answers(CHUNKED, chunk(b"a"), close=False), use, timeouts)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", CHUNKED, CHUNKED + chunk(b"a")])
def test_silence_times_out(said):
    with pytest.raises(TimedOut):
        exchange(answers(said, close=False), whole, IMPATIENT)


def test_an_answer_that_never_ends_times_out_in_all():
    async def serve(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED)
        while True:
            writer.write(chunk(b"a"))
            await writer.drain()
            await asyncio.sleep(0.05)

    with pytest.raises(TimedOut):
        exchange(serve, whole, IMPATIENT)


def counting_server(answer):
    """A server that keeps connections alive; `served` has a list of requests for each."""
    served = []

    async def serve(reader, writer):
        mine = []
        served.append(mine)
        while True:
            mine.append(await read_request(reader))
            await answer(writer, len(served))

    return serve, served


def test_a_connection_is_used_again_after_a_whole_answer():
    async def answer(writer, _):
        writer.write(http(b"ok"))
        await writer.drain()

    serve, served = counting_server(answer)

    async def use(pool, post):
        for _ in range(3):
            assert await whole(pool, post) == (200, b"ok")

    exchange(serve, use)
    assert [len(requests) for requests in served] == [3]


def test_a_connection_whose_answer_was_given_up_is_closed_and_not_used_again():
    async def answer(writer, _):
        writer.write(CHUNKED + chunk(b"a"))
        await writer.drain()

    serve, served = counting_server(answer)

    async def use(pool, post):
        for _ in range(2):
            line, taken = post()
            await asyncio.wait_for(taken.came.wait(), 5)
            line.abandon()
            calls = list(taken.calls)
            await asyncio.sleep(0.02)
            assert taken.calls == calls

    exchange(serve, use)
    assert [len(requests) for requests in served] == [1, 1]


def test_a_connection_that_the_engine_closed_meanwhile_is_not_used_again():
    async def answer(writer, _):
        writer.write(http(b"ok"))
        await writer.drain()
        writer.close()

    serve, served = counting_server(answer)

    async def use(pool, post):
        for _ in range(2):
            assert await whole(pool, post) == (200, b"ok")
            await asyncio.sleep(0.05)

    exchange(serve, use)
    assert [len(requests) for requests in served] == [1, 1]


def test_bytes_after_an_answer_spoil_the_connection():
    async def answer(writer, _):
        writer.write(http(b"ok") + b"HTTP/1.1 200 OK\r\n")
        await writer.drain()

    serve, served = counting_server(answer)

    async def use(pool, post):
        for _ in range(2):
            assert await whole(pool, post) == (200, b"ok")
            await asyncio.sleep(0.02)

    exchange(serve, use)
    assert all(len(requests) == 1 for requests in served)


@pytest.mark.parametrize("wait_s", [0.0, 0.05])
def test_requests_given_up_leave_no_connection_behind(wait_s):
    open_connections = set()

    async def use(pool, post):
        lines = [post()[0] for _ in range(50)]
        await asyncio.sleep(wait_s)
        for line in lines:
            line.abandon()
        for _ in range(200):
            await asyncio.sleep(0.01)
            if not open_connections:
                break
        return len(pool.busy), len(pool.connecting), len(open_connections)

    async def reads_all(reader, writer):
        open_connections.add(writer)
        try:
            while await reader.read(4096):
                pass
        finally:
            open_connections.discard(writer)

    assert exchange(reads_all, use) == (0, 0, 0)
