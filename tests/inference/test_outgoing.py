"""What a turn writes goes out at its end, in order, and never to a connection that was given up meanwhile."""

import asyncio

from inference.outgoing import Outgoing
from tests.fakes.memory import Transport, held
from tests.inference.test_front_framing import KINDS, read_answers, with_plane


class Mute(asyncio.Protocol):
    """Only holds a transport."""


class Strict(Transport):
    """As uvloop's: who writes to one that is closed made a mistake."""

    def write(self, data: bytes) -> None:
        assert not self.is_closing()
        super().write(data)


def outgoing_to(*names: str):
    """(outgoing, log of what was written, transports), within a running loop."""
    loop = asyncio.get_running_loop()
    log: list[tuple[str, bytes]] = []

    def transport(name: str) -> Strict:
        made = Strict(loop, Mute())
        made.on_taken = lambda data: log.append((name, data))
        return made

    return Outgoing(loop), log, [transport(name) for name in names]


def test_what_a_turn_writes_goes_out_after_it_and_in_order():
    async def conversation(loop):
        outgoing, log, (one, other) = outgoing_to("one", "other")
        outgoing.write(one, b"1")
        outgoing.write(other, b"2")
        outgoing.write(one, b"3")
        assert log == []
        await loop.settle()
        assert log == [("one", b"1"), ("other", b"2"), ("one", b"3")]
        outgoing.write(one, b"4")
        await loop.settle()
        assert log[3:] == [("one", b"4")]

    held(conversation)


def test_what_was_for_a_connection_that_was_given_up_is_dropped_and_the_rest_goes_out():
    async def conversation(loop):
        outgoing, log, (one, other) = outgoing_to("one", "other")
        outgoing.write(one, b"1")
        outgoing.write(other, b"2")
        one.abort()
        await loop.settle()
        assert log == [("other", b"2")]

    held(conversation)


def test_what_is_flushed_is_written_once():
    async def conversation(loop):
        outgoing, log, (one,) = outgoing_to("one")
        outgoing.write(one, b"1")
        outgoing.flush()
        assert log == [("one", b"1")]
        await loop.settle()
        assert log == [("one", b"1")]

    held(conversation)


def test_an_answer_is_whole_before_its_connection_is_closed():
    """The client asked for the end of the connection, so both come in one turn."""

    async def test(plane):
        client = plane.client()
        data = KINDS["short"][0].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        client.arrive(data)
        await plane.loop.settle()
        assert client.lost
        (answer,) = read_answers(bytes(client.taken))
        assert answer.status == 200

    with_plane(test)


def test_who_stops_the_server_cuts_no_answer_that_is_on_its_way_out():
    async def test(plane):
        client = plane.client()
        client.arrive(KINDS["short"][0])
        while not plane.gateway.outgoing._waiting or not plane.seen.requests:  # noqa: ASYNC110
            await asyncio.sleep(0)
        (front,) = [one for one in plane.state.connections if hasattr(one, "waiting_since")]
        while front._exchange is not None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        front.shutdown()
        await plane.loop.settle()
        (answer,) = read_answers(bytes(client.taken))
        assert answer.status == 200

    with_plane(test)
