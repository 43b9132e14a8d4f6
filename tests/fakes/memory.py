"""Connections without sockets: what one side writes is what the other reads, in the turns and pieces that a test says.
A whole conversation takes a millisecond, so that it can be held thousands of times."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

HIGH_WATER = 64 * 1024  # as asyncio's own


class Transport(asyncio.Transport):
    """What a protocol holds, with asyncio's rules: `connection_lost` comes in a later turn, nothing is read after
    `close`, writing is paused above the high-water mark and resumed when a quarter of it is left."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._unread = b""
        self._unsent = bytearray()
        self._writing_paused = False
        self._closing = False
        self.reading = True
        self.flowing = True
        """The other side takes what is written at once. False: it takes what the test says by `take`."""
        self.taken = bytearray()
        self.on_taken: Callable[[bytes], None] = self.taken.extend
        self.on_closed: Callable[[], None] = _nothing
        self.lost = False
        protocol.connection_made(self)

    # What the other side does

    def arrive(self, data: bytes) -> None:
        """Bytes come in, in this very turn, if they are read."""
        if self._closing or not data:
            return
        if self.reading and not self._unread:
            self._protocol.data_received(data)
        else:
            self._unread += data

    def leave(self) -> None:
        """The other side closes, or vanishes."""
        if not self._closing:
            self._closing = True
            self._unsent.clear()
            self._loop.call_soon(self._lose)

    def take(self, most: int) -> bytes:
        """Of what is written, what the other side reads now."""
        data = bytes(self._unsent[:most])
        del self._unsent[:most]
        self.on_taken(data)
        if self._writing_paused and len(self._unsent) <= HIGH_WATER // 4:
            self._writing_paused = False
            self._protocol.resume_writing()
        if self._closing and not self._unsent:
            self._loop.call_soon(self._lose)
        return data

    @property
    def waiting(self) -> int:
        """Bytes that are written and not taken."""
        return len(self._unsent)

    # What the protocol does

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if self.lost or not data or (self._closing and not self._unsent):
            return
        if self.flowing:
            self.on_taken(bytes(data))
            return
        self._unsent += data
        if len(self._unsent) > HIGH_WATER and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._unsent:
                self._loop.call_soon(self._lose)

    def abort(self) -> None:
        self.leave()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        if not self._closing:
            self.reading = False

    def resume_reading(self) -> None:
        if not self._closing and not self.reading:
            self.reading = True
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self.reading and self._unread and not self._closing:
            data, self._unread = self._unread, b""
            self._protocol.data_received(data)

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._protocol.connection_lost(None)
            self.on_closed()


def _nothing() -> None:
    return None


class Loop(asyncio.SelectorEventLoop):
    """Connects to nothing but what stands in `servers`: by port, what gets the transport of each new connection."""

    def __init__(self) -> None:
        super().__init__()
        self.servers: dict[int, Callable[[Transport], None]] = {}

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        if port not in self.servers:
            raise ConnectionRefusedError(111, "nobody listens")
        protocol = factory()
        transport = Transport(self, protocol)
        self.servers[port](transport)
        return transport, protocol

    async def settle(self) -> None:
        """Returns when nothing is left to do but to wait for time or for bytes."""
        await asyncio.sleep(0)
        while self._ready:  # type: ignore[attr-defined]  # noqa: ASYNC110
            await asyncio.sleep(0)


def held(conversation: Callable[[Loop], Awaitable[T]]) -> T:
    """Runs a conversation in a loop of its own. What a callback raised is raised here."""
    faults: list[BaseException] = []
    with asyncio.Runner(loop_factory=Loop) as runner:
        loop: Any = runner.get_loop()
        loop.set_exception_handler(lambda _, told: faults.append(told.get("exception") or Exception(told["message"])))
        answer = runner.run(conversation(loop))
    if faults:
        raise faults[0]
    return answer
