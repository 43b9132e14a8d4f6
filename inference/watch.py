"""The clock of the clients' connections: one timer for all, since one for each would cost more than its write."""

import asyncio
from typing import Protocol

TICKS = 8  # a client is given up after its time plus at most an eighth


class Watched(Protocol):
    def give_up(self, ticks: int, idle_ticks: int) -> None: ...


class Watch:
    """Tells each connection, TICKS times in `timeout_s`, to look whether its client keeps it waiting for too long."""

    def __init__(self, timeout_s: float, idle_s: float) -> None:
        self._pause_s = timeout_s / TICKS
        self._idle_ticks = max(1, round(idle_s / self._pause_s))
        self._connections: set[Watched] = set()
        self.tick = 0

    def begin(self, connection: Watched) -> None:
        self._connections.add(connection)

    def end(self, connection: Watched) -> None:
        self._connections.discard(connection)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s)
            self.tick += 1
            for connection in list(self._connections):
                connection.give_up(TICKS, self._idle_ticks)
