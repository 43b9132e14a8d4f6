"""The line to the live ledger: all operations of one event-loop turn travel in one call of `ledger.lua`.

A plain protocol with hiredis's parser instead of a client library: measured at 2.4 µs an operation at 64 at once,
where a pooled client costs ten times that. One call is under way at a time; what comes meanwhile goes with the next.
What nobody waits for does not make a call of its own at once: mostly the next request comes soon and takes it along.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis

logger = logging.getLogger(__name__)

SCRIPT = (files("inference") / "ledger.lua").read_bytes()
LAZY_S = 0.005
_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()


LONGEST_KNOWN = 1024
_SIZES = [b"$%d\r\n" % size for size in range(LONGEST_KNOWN)]
_LENGTHS = [b"%c" % size for size in range(256)]


def counted(text: bytes) -> bytes:
    """With its length before it, at most 255, as the script reads what is packed."""
    return _LENGTHS[len(text)] + text


def encoded(*parts: bytes) -> bytes:
    """Arguments of a command as Redis reads them."""
    pieces = []
    for part in parts:
        size = len(part)
        pieces += (_SIZES[size] if size < LONGEST_KNOWN else b"$%d\r\n" % size), part, b"\r\n"
    return b"".join(pieces)


_EVALSHA = encoded(b"EVALSHA", _SHA, b"0")


class LedgerAway(Exception):
    """The live ledger cannot be reached or does not answer in time."""


class NotSent(LedgerAway):
    """The operation did not take effect."""


Callback = Callable[[bytes | LedgerAway], None]
"""Gets the operation's answer, its fields separated by tabs, or why there is none: then whether it took effect is
unknown."""


class LedgerLink:
    """One connection, made again when it breaks. Belongs to the event loop that calls `open`."""

    def __init__(self, url: str, timeout_s: float = 2.0) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._loop: asyncio.AbstractEventLoop
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._operations: list[bytes] = []
        self._records: list[bytes] = []
        self._callbacks: list[Callback] = []
        self._flight: list[Callback] = []
        self._setup_answers = 0
        self._armed = False
        self._lazy: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._sent = 0.0
        self._reconnecting: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._closed = False
        self._was_ready = False
        self.header: tuple[bytes, bytes, bytes] = (b"", b"0", b"0")
        """Who calls, how many ms this counts as a sign of life, and the month (UTC, as 202611)."""
        self.on_return: Callable[[], None] = _nothing
        """Called when the connection is there again after it broke. What was written last may be lost."""

    async def open(self) -> None:
        """Connects. Raises LedgerAway; further attempts are then made in the background."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._connect()
        except OSError as error:
            self._reconnect()
            raise LedgerAway(str(error)) from None

    async def _connect(self) -> None:
        parts = urlsplit(self._url)
        if parts.scheme == "unix":
            connecting = self._loop.create_unix_connection(lambda: self, parts.path)
        elif parts.scheme in ("redis", "rediss"):
            connecting = self._loop.create_connection(
                lambda: self,
                parts.hostname or "127.0.0.1",
                parts.port or 6379,
                ssl=True if parts.scheme == "rediss" else None,
            )
        else:
            raise OSError(f"unknown scheme in the Redis address: {parts.scheme}")
        await asyncio.wait_for(connecting, self._timeout_s)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._ended.clear()
        self._reader = hiredis.Reader()
        parts = urlsplit(self._url)
        setup = []
        if parts.password:
            user = [unquote(parts.username).encode()] if parts.username else []
            setup.append(_command(b"AUTH", *user, unquote(parts.password).encode()))
        database = parts.path.lstrip("/") if parts.scheme != "unix" else ""
        if database:
            setup.append(_command(b"SELECT", database.encode()))
        setup.append(_command(b"SCRIPT", b"LOAD", SCRIPT))
        self._setup_answers = len(setup)
        self._transport.write(b"".join(setup))
        self._expect()

    def call(self, callback: Callback, *operation: bytes) -> None:
        """Sends an operation, its name and arguments, with this turn's call. The callback is called exactly once, never
        within this call."""
        self.send(callback, b"\0".join(operation))

    def send(self, callback: Callback, operation: bytes) -> None:
        """As `call`, of an operation as the script reads it."""
        self._operations.append(operation)
        self._callbacks.append(callback)
        if not self._armed and not self._flight:
            self._arm()

    def send_along(self, callback: Callback, operation: bytes, record: bytes) -> None:
        """As `send`, of a settlement and its record apart, with the next call that somebody waits for, LAZY_S later at
        most."""
        self._operations.append(operation)
        self._records.append(record)
        self._callbacks.append(callback)
        if self._lazy is None and not self._armed and not self._flight:
            self._lazy = self._loop.call_later(LAZY_S, self._no_longer)

    def _no_longer(self) -> None:
        self._lazy = None
        if self._callbacks and not self._armed and not self._flight:
            self._flush()

    def _arm(self) -> None:
        self._armed = True
        self._loop.call_soon(self._flush)

    async def ask(self, *operation: bytes) -> bytes:
        """Like `call`, awaited. Raises LedgerAway."""
        future: asyncio.Future[bytes | LedgerAway] = self._loop.create_future()

        def done(answer: bytes | LedgerAway) -> None:
            if not future.done():
                future.set_result(answer)

        self.call(done, *operation)
        answer = await future
        if isinstance(answer, LedgerAway):
            raise answer
        return answer

    def _flush(self) -> None:
        self._armed = False
        if self._transport is None:
            self._fail_waiting(NotSent("not connected"))
        if not self._callbacks or self._transport is None or self._setup_answers:
            return
        operations, self._operations = self._operations, []
        records, self._records = self._records, []
        self._flight, self._callbacks = self._callbacks, []
        self._expect()
        arguments = encoded(*self.header, b"\n".join(records), *operations)
        self._transport.write(b"*%d\r\n%b%b" % (len(operations) + 7, _EVALSHA, arguments))

    def _fail_waiting(self, error: LedgerAway) -> None:
        callbacks, self._callbacks, self._operations, self._records = self._callbacks, [], [], []
        for callback in callbacks:
            callback(error)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            if self._setup_answers:
                self._setup_answers -= 1
                if isinstance(answer, hiredis.ReplyError):
                    logger.error("the live ledger's Redis refuses the portal: %s", answer)
                    self._transport and self._transport.abort()
                    return
                if not self._setup_answers:
                    self._ready()
            else:
                self._landed(answer)
        if self._callbacks and not self._armed and not self._flight and not self._setup_answers:
            self._arm()

    def _ready(self) -> None:
        if self._was_ready:
            self.on_return()
        self._was_ready = True

    def _landed(self, answer: Any) -> None:
        flight, self._flight = self._flight, []
        answers = answer.split(b"\n") if isinstance(answer, bytes) else ()
        if len(answers) != len(flight):
            # NOSCRIPT after a restart of Redis, out of memory, read-only replica: connecting anew loads the script.
            logger.error("the live ledger refused a call: %s", answer)
            self._transport and self._transport.abort()
            for callback in flight:
                callback(LedgerAway("refused"))
            return
        for callback, one in zip(flight, answers, strict=True):
            try:
                callback(one)
            except Exception:  # one request's fault must not take the others' answers
                logger.exception("a callback of the live ledger failed")

    def _expect(self) -> None:
        """An answer, in time. Also of a Redis that was just connected to: the kernel connects to one that hangs."""
        self._sent = self._loop.time()
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._timeout_s, self._watch)

    def _watch(self) -> None:
        """Not a timer for each call: it would be cancelled thousands of times a second."""
        self._watchdog = None
        if not self._flight and not self._setup_answers:
            return
        left_s = self._sent + self._timeout_s - self._loop.time()
        if left_s > 0:
            self._watchdog = self._loop.call_later(left_s, self._watch)
            return
        logger.error("the live ledger did not answer within %.1f s", self._timeout_s)
        if self._transport:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended.set()
        if self._watchdog:
            self._watchdog.cancel()
            self._watchdog = None
        flight, self._flight = self._flight, []
        for callback in flight:
            callback(LedgerAway("connection lost"))
        self._fail_waiting(NotSent("connection lost"))
        if not self._closed:
            self._reconnect()

    def _reconnect(self) -> None:
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = self._loop.create_task(self._keep_connecting())

    async def _keep_connecting(self) -> None:
        pause_s = 0.05
        while self._transport is None and not self._closed:
            try:
                await self._connect()
            except OSError as error:
                logger.warning("the live ledger is away: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 1.0)

    async def close(self) -> None:
        """Ends the connection; operations under way get LedgerAway."""
        self._closed = True
        if self._reconnecting:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        if self._transport:
            self._transport.close()
            await self._ended.wait()


def _nothing() -> None:
    return None


def _command(*parts: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(parts), encoded(*parts))
