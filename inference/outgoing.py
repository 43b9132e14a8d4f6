"""What one turn of the event loop writes goes to the sockets together, when all that the turn has read is dealt with.

Each write to a socket whose reader sleeps wakes it, which costs more than the write. Written one right after the other,
the first write wakes a reader that then is awake for the rest: measured at 17 of 90 µs a request, at 64 at once.
"""

import asyncio


class Outgoing:
    """Of one event loop. Whoever writes to a transport here, writes to it by no other way before the turn is over, or
    says `flush` first; so does whoever closes it. What is written to one that is aborted meanwhile is dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append((transport, data))

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
