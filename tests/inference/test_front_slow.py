"""Clients that take or send slowly, in memory: what waits for them in the portal is bounded, and so is the time."""

import pytest

from inference.watch import TICKS
from tests.fakes.memory import HIGH_WATER
from tests.fakes.strict import read_answers
from tests.fakes.upstream import chunk, event, last_event, sse
from tests.inference.test_front_framing import CHAT, KINDS, KNOWN, chat, pieces_of, spoken, with_plane

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH = 200
EVENT = chunk(sse(event("x" * 8000, 7, 1)))
END = chunk(sse(last_event(7, LENGTH), b"[DONE]")) + b"0\r\n\r\n"
ASKS = {
    "short": spoken(CHAT, KNOWN, body=chat("short", stream="true")),
    "long": spoken(CHAT, KNOWN, body=chat("long", stream="true"), chunks=500),
}


async def pour(plane, line, pieces: int) -> int:
    """The engine writes until it is not read any more; how many of the pieces went."""
    for count in range(pieces):
        if not line.reading:
            return count
        line.arrive(EVENT)
        await plane.loop.settle()
    return pieces


@pytest.mark.parametrize("way", ["short", "long"])
def test_a_client_that_takes_a_byte_at_a_time_stops_the_engine(way):
    """Of 1.6 MB, 64 KiB and an event wait for it, and on the long way as much again at either end of its task."""
    bound = {"short": HIGH_WATER, "long": 3 * HIGH_WATER}[way] + 3 * len(EVENT)

    async def test(plane):
        plane.engine.answer = lambda asked: STREAM
        client = plane.client()
        client.flowing = False
        client.arrive(ASKS[way])
        await plane.loop.settle()
        line = plane.engine.lines[0]
        sent = most = 0
        while sent < LENGTH:
            sent += await pour(plane, line, LENGTH - sent)
            most = max(most, client.waiting)
            for _ in range(100):
                client.take(1)
            client.take(9000)
            await plane.loop.settle()
            assert sent * len(EVENT) < len(client.taken) + bound
        assert HIGH_WATER < most < bound
        line.arrive(END)
        while client.waiting or not line.reading:
            client.take(50_000)
            await plane.loop.settle()
        (answer,) = read_answers(bytes(client.taken))
        assert answer.body.count(b"data: ") == LENGTH + 1
        client.leave()

    with_plane(test)


@pytest.mark.parametrize("kind", ["no JSON", "no body", "short"])
def test_who_takes_no_answer_is_asked_no_further(kind):
    """Requests sent ahead without end: answers wait up to the high-water mark, requests up to theirs."""
    data = KINDS[kind][0]

    async def test(plane):
        client = plane.client()
        client.flowing = False
        sent = 0
        while client.reading and sent < 3000:
            client.arrive(data)
            await plane.loop.settle()
            sent += 1
        assert sent < 3000
        assert client.waiting < HIGH_WATER + 2000
        asked = len(plane.seen.requests)
        client.arrive(data * 1000)
        await plane.loop.settle()
        assert len(plane.seen.requests) == asked
        while client.waiting:
            client.take(10_000)
            await plane.loop.settle()
        assert len(read_answers(bytes(client.taken))) == sent + 1000
        client.leave()

    with_plane(test)


@pytest.mark.parametrize("way", ["short", "long"])
def test_a_stream_behind_answers_that_nobody_took_waits_too(way):
    async def test(plane):
        plane.engine.answer = lambda asked: STREAM
        client = plane.client()
        client.flowing = False
        while client.waiting <= HIGH_WATER:
            client.arrive(KINDS["no JSON"][0])
        client.arrive(ASKS[way])
        await plane.loop.settle()
        for line in plane.engine.lines:
            await pour(plane, line, LENGTH)
        assert client.waiting < 2 * HIGH_WATER
        client.leave()

    with_plane(test)


def test_who_takes_nothing_is_given_up_however_much_it_sends():
    async def test(plane):
        client = plane.client()
        client.flowing = False
        for _ in range(1000):
            client.arrive(KINDS["no JSON"][0])
        for _ in range(TICKS + 1):
            assert not client.lost
            plane.tick(1)
            client.arrive(KINDS["no JSON"][0])
            await plane.loop.settle()
        assert client.lost

    with_plane(test)


@pytest.mark.parametrize("kind", ["short", "in chunks", "a form", "asks first"])
def test_who_sends_a_byte_a_tick_is_waited_for_and_who_stops_is_given_up(kind):
    data = KINDS[kind][0]
    begun = data.index(b"\r\n\r\n") + 4

    async def test(plane):
        slow, stopped = plane.client(), plane.client()
        stopped.arrive(data[:-1])
        for piece in [data[:begun], *(bytes([byte]) for byte in data[begun:])]:
            plane.tick(1)
            slow.arrive(piece)
            await plane.loop.settle()
        assert stopped.lost
        assert [one.status for one in read_answers(bytes(slow.taken))] == [200]
        slow.leave()

    with_plane(test)


ENDLESS = {
    "a header": b"GET /page HTTP/1.1\r\nX-A: ",
    "a header's name": b"GET /page HTTP/1.1\r\n",
    "a request line": b"GET /",
    "a trailer": b"POST /form HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-A: ",
    "a head to an engine": f"{CHAT}\r\n{KNOWN}\r\nX-A: ".encode(),
}


@pytest.mark.parametrize("line_end", [b"", b"\r\nX-A: "])
@pytest.mark.parametrize("what", ENDLESS)
def test_a_head_without_end_is_not_kept(what, line_end):
    async def test(plane):
        client = plane.client()
        client.arrive(ENDLESS[what])
        for _ in range(17):
            client.arrive(b"x" * 4000 + line_end)
            await plane.loop.settle()
        assert client.lost
        assert [one.status for one in read_answers(bytes(client.taken))] == [400]

    with_plane(test)


@pytest.mark.parametrize("way", ["short", "long"])
def test_a_head_of_a_usual_size_is_read_however_slowly_it_comes(way):
    line = CHAT if way == "short" else "POST /form HTTP/1.1"
    data = spoken(line, KNOWN, "Cookie: " + "x" * 30_000, body=chat("x" * 200_000))

    async def test(plane):
        client = plane.client()
        for piece in pieces_of(data, list(range(0, len(data), 1000))):
            client.arrive(piece)
            await plane.loop.settle()
        assert [one.status for one in read_answers(bytes(client.taken))] == [200]
        client.leave()

    with_plane(test)
