"""The connections of one event loop to engines, and to the pages' process: kept alive and used again."""

import asyncio
from collections import deque

from inference.digits import digits
from inference.outgoing import Outgoing
from inference.upstream import Address, Broken, CannotConnect, Connection, Line, Taker, Timeouts

# uvicorn, vLLM's server, closes an idle connection after 5 s: one that is nearly that old is not used again.
MAX_IDLE_S = 3.0
SWEEP_S = 0.25


class _Connecting:
    """A request whose connection is being made."""

    def __init__(
        self, pool: "Pool", address: Address, request: bytes, timeouts: Timeouts, taker: Taker, bodiless: bool
    ) -> None:
        self._bodiless = bodiless
        self._taker = taker
        self._made: Connection | None = None
        self._connection: Connection | None = None
        self._paused = False
        self._task = pool.loop.create_task(self._connect(pool, address, request, timeouts))
        pool.connecting.add(self._task)
        self._task.add_done_callback(pool.connecting.discard)

    async def _connect(self, pool: "Pool", address: Address, request: bytes, timeouts: Timeouts) -> None:
        def make() -> Connection:
            self._made = Connection(pool, address)
            return self._made

        try:
            async with asyncio.timeout(timeouts.connect):
                if isinstance(address, str):
                    _, connection = await pool.loop.create_unix_connection(make, address)
                else:
                    _, connection = await pool.loop.create_connection(make, *address)
        except asyncio.CancelledError:
            if self._made is not None:
                self._made.abort()
            raise
        except TimeoutError:
            self._taker.failed(CannotConnect("does not accept connections in time"))
        except OSError as error:
            self._taker.failed(CannotConnect(f"does not accept connections: {error.strerror or error}"))
        else:
            if connection.dead:
                self._taker.failed(Broken("closed the connection at once"))
                return
            self._connection = connection
            connection.send(request, timeouts, self._taker, self._bodiless)
            if self._paused:
                connection.pause()

    def abandon(self) -> None:
        if self._connection:
            self._connection.abandon()
        else:
            self._task.cancel()

    def pause(self) -> None:
        self._paused = True
        if self._connection:
            self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        if self._connection:
            self._connection.resume()


class Pool:
    """The connections of one event loop to all engines."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        all_headers: bool = False,
        outgoing: Outgoing | None = None,
    ) -> None:
        """all_headers: takers want all headers of an answer, not its type alone."""
        self.loop = loop or asyncio.get_running_loop()
        self.outgoing = outgoing or Outgoing(self.loop)
        self.short = not all_headers
        self.busy: set[Connection] = set()
        self.connecting: set[asyncio.Task[None]] = set()
        self._idle: dict[Address, deque[Connection]] = {}
        self._sweeper = self.loop.create_task(self._sweep())

    def post(self, address: Address, head: bytes, body: bytes, timeouts: Timeouts, taker: Taker) -> Line:
        """Sends a request; the answer goes to `taker`, never within this call. `head` is request line and headers,
        each line with its end; the body's length is added."""
        request = b"".join((head, b"content-length: ", digits(len(body)), b"\r\n\r\n", body))
        return self.request(address, request, timeouts, taker)

    def request(
        self, address: Address, request: bytes, timeouts: Timeouts, taker: Taker, *, bodiless: bool = False
    ) -> Line:
        """As `post`, of a whole request. `bodiless`: the answer to it has no body, whatever its headers say."""
        connection = self._fresh(address)
        if connection is None:
            return _Connecting(self, address, request, timeouts, taker, bodiless)
        connection.send(request, timeouts, taker, bodiless)
        return connection

    def _fresh(self, address: Address) -> Connection | None:
        idle = self._idle.get(address)
        oldest = self.loop.time() - MAX_IDLE_S
        while idle:
            connection = idle.pop()  # the latest used: the others may grow old and be closed
            if not connection.dead and connection.idle_since > oldest:
                connection.reuse()
                return connection
            connection.abort()
        return None

    def take_back(self, connection: Connection) -> None:
        connection.idle_since = self.loop.time()
        self._idle.setdefault(connection.address, deque()).append(connection)

    async def _sweep(self) -> None:
        """One clock for all deadlines: a timer per read would cost more than the read."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self.loop.time()
            for connection in list(self.busy):
                connection.expire(now)
            for address, idle in list(self._idle.items()):
                while idle and (idle[0].dead or idle[0].idle_since < now - MAX_IDLE_S):
                    idle.popleft().abort()
                if not idle:
                    del self._idle[address]

    def close(self) -> None:
        self._sweeper.cancel()
        for task in list(self.connecting):
            task.cancel()
        for connection in [*self.busy, *(one for idle in self._idle.values() for one in idle)]:
            connection.abort()
        self._idle.clear()
