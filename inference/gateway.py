"""The data plane's moving parts of one event loop: the link to the ledger, the connections to the engines, the
snapshot of routes, and the clocks that keep them right. Nothing here holds a database connection while a request runs:
the ORM is used from one thread of its own, for moments."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from django.db import DatabaseError, close_old_connections

from accounts import quotas
from engines import waking
from inference import snapshot, usage
from inference.admission import Admission
from inference.callers import Callers, caller_of, no_longer_counts
from inference.errors import ApiError, Asleep, InvalidKey, InvalidRequest, ModelNotFound, TryLater, restarting
from inference.inheritance import inherit
from inference.journal import Journal
from inference.ledger_link import LedgerAway, LedgerLink
from inference.limits import Revoked
from inference.outgoing import Outgoing
from inference.pool import Pool
from inference.relay import Relay, Turns
from inference.routing import Asked, Caller, Route, Routes
from inference.upstream import Timeouts
from inference.wakes import Wakes
from inference.watch import Watch
from vllm_portal.changes import CHANNEL
from vllm_portal.config import get_config

logger = logging.getLogger(__name__)

T = TypeVar("T")
ROUTES_S = 3.0  # changes are announced; this finds what was missed
READINGS_S = 0.1
TICK_S = 1.0
REAP_S = 5.0
DRAIN_S = 8.0
IDLE_S = 75.0  # a client's connection without a request

_gateways: "WeakKeyDictionary[asyncio.AbstractEventLoop, Gateway]" = WeakKeyDictionary()


async def gateway() -> "Gateway":
    """The gateway of the running event loop, started when it is asked for first."""
    loop = asyncio.get_running_loop()
    found = _gateways.get(loop)
    if found is None:
        found = _gateways[loop] = Gateway()
        try:
            await found.start()
        except BaseException:
            del _gateways[loop]
            found.started.set()
            raise
    await found.started.wait()
    return found


def running_gateway(loop: asyncio.AbstractEventLoop) -> "Gateway | None":
    """The gateway of `loop` if it has been started."""
    found = _gateways.get(loop)
    return found if found is not None and found.started.is_set() else None


def let_go() -> None:
    """Nobody waits for an engine to wake any more: the portal stops. From any thread, or a signal's handler."""
    for loop, plane in list(_gateways.items()):
        if plane.started.is_set():
            loop.call_soon_threadsafe(plane.wakes.break_off)


class Gateway:
    def __init__(self) -> None:
        config = get_config()
        self.loop = asyncio.get_running_loop()
        self.watch = Watch(config.write_timeout_seconds, IDLE_S)
        self.max_body_bytes = config.max_body_bytes
        self.outgoing = Outgoing(self.loop)
        self._link = LedgerLink(config.redis)
        self._database = ThreadPoolExecutor(1, "data-plane-db")
        self._clocks: list[asyncio.Task[None]] = []
        self._timeouts = Timeouts(
            config.connect_timeout_seconds,
            config.first_byte_timeout_seconds,
            config.idle_timeout_seconds,
            config.total_timeout_seconds,
        )
        self.routes = Routes(self.loop.time)
        self.asleep = Routes(self.loop.time)
        self._at_once = max(1, config.engine_requests_at_once // config.web_processes)
        self._routes_read = 0.0
        self._next_reading: asyncio.Future[None] | None = None
        self._wanted: dict[str, asyncio.Future[ApiError | None]] = {}
        self._loader: asyncio.Task[None] | None = None
        self.callers = Callers(self._fetch_caller)
        self.started = asyncio.Event()
        self.admission: Admission
        self.relay: Relay
        self.wakes: Wakes

    async def start(self) -> None:
        config = get_config()
        self._pool = Pool(outgoing=self.outgoing)
        self.admission = Admission(
            self._link,
            self._load_counters,
            config.reservation_lease_seconds,
            config.limit_wait_seconds,
            config.limit_waiting_requests,
            _journal(config.journal_dir),
        )
        self.relay = Relay(
            self.admission,
            self._pool,
            self._timeouts,
            config.limit_slice_tokens,
            Turns(config.engine_waiting_requests, config.engine_wait_seconds),
            self.routes,
            self.asleep,
        )
        self.wakes = Wakes(self.admission, self._see, self.refresh_routes, config)
        with contextlib.suppress(LedgerAway):
            await self._link.open()
            await self._reap()
        await self.refresh_routes()
        self._clocks = [
            asyncio.create_task(self._every(ROUTES_S, self.refresh_routes)),
            asyncio.create_task(self._every(min(max(config.usage_backlog_seconds / 5, 0.1), 1), self._flush_late)),
            asyncio.create_task(self._every(TICK_S, self.admission.tick)),
            asyncio.create_task(self._every(REAP_S, self._reap)),
            asyncio.create_task(self._listen()),
            asyncio.create_task(self.watch.run()),
        ]
        self.started.set()

    async def stop(self) -> None:
        """Waits for what is open, writes what is settled, and closes. What cannot be written stays in Redis."""
        self.relay.break_off(restarting())  # what still runs had its time
        drained = await self.admission.drain(DRAIN_S)
        if not drained:
            logger.warning("%d requests were still open at the end", self.admission.open_requests)
        for clock in self._clocks:
            clock.cancel()
        await asyncio.gather(*self._clocks, return_exceptions=True)
        await self._flush()
        self._pool.close()
        await self._link.close()
        self.admission.journal.close(keep=not drained)
        self._database.shutdown()
        _gateways.pop(asyncio.get_running_loop(), None)

    async def refresh_routes(self) -> None:
        """Reads the READY engines anew. The database being away leaves the last snapshot in force."""
        try:
            awake, asleep, aliases = await self.in_database(snapshot.read)
            self.routes.replace(awake, self._at_once, aliases)
            self.asleep.replace(asleep, aliases=aliases)
        except DatabaseError as error:
            logger.error("cannot read the routes: %s", error)
        self._routes_read = time.monotonic()

    def usable_by(self, caller: Caller) -> list[Route]:
        """Those that answer, and those that a request of the caller wakes."""
        return self.routes.usable_by(caller) + (self.asleep.usable_by(caller) if caller.may_wake else [])

    def engine(self, caller: Caller, engine_id: str) -> Route:
        """Awake or asleep. Raises ModelNotFound."""
        try:
            return self.routes.engine(caller, engine_id)
        except ModelNotFound:
            return self.asleep.engine(caller, engine_id)

    async def find(self, caller: Caller, engine_id: str | None, model: str | None, asked: Asked | None = None) -> Route:
        """The engine for a request: by its id, else by model. One that is not known may have become ready a moment ago:
        look again, once. Raises InvalidRequest, ModelNotFound, and Asleep where one that sleeps would do."""
        try:
            return self.routes.find(caller, engine_id, model, asked)
        except ModelNotFound:
            await self.look_again()
        try:
            return self.routes.find(caller, engine_id, model, asked)
        except ModelNotFound:
            with contextlib.suppress(ModelNotFound, InvalidRequest):
                raise Asleep(self.asleep.find(caller, engine_id, model, asked)) from None
            raise

    async def _see(self, engine_id: str, by: str) -> waking.Sight:
        return await self.in_database(waking.see, UUID(engine_id), by)

    async def look_again(self) -> None:
        """For a request whose engine is not known: returns when the routes have been read after this call. All who
        ask share a reading, and there are at most ten a second, whatever is asked."""
        if self._next_reading is None:
            self._next_reading = asyncio.ensure_future(self._read_soon())
        await asyncio.shield(self._next_reading)

    async def _read_soon(self) -> None:
        await asyncio.sleep(max(0.0, self._routes_read + READINGS_S - time.monotonic()))
        self._next_reading = None  # who asks from now on may want what changes during this reading
        await self.refresh_routes()

    async def in_database(self, work: Callable[..., T], *arguments: object) -> T:
        """Runs ORM code in the data plane's database thread."""

        def run() -> T:
            close_old_connections()
            try:
                return work(*arguments)
            finally:
                close_old_connections()

        return await asyncio.get_running_loop().run_in_executor(self._database, run)

    async def _fetch_caller(self, token: str) -> Caller:
        try:
            return await self.in_database(caller_of, token)
        except DatabaseError as error:
            logger.error("cannot look a caller up: %s", error)
            raise TryLater("The portal cannot check who you are now.", status=503, code="unavailable") from None

    async def _load_counters(self, subject: str) -> None:
        """Many may find nothing loaded at once: what is asked for during one load is the next one's, together. Raises
        InvalidKey, TryLater."""
        wanted = self._wanted.get(subject)
        if wanted is None:
            wanted = self._wanted[subject] = self.loop.create_future()
            if self._loader is None or self._loader.done():
                self._loader = self.loop.create_task(self._load_wanted())
        error = await asyncio.shield(wanted)
        if error is not None:
            raise error

    async def _load_wanted(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            found: set[str] = set()
            missing: ApiError = Revoked()
            try:
                found = await self.in_database(usage.load_all, list(wanted))
            except (DatabaseError, redis.RedisError) as error:
                logger.error("cannot load the counters of %d: %s", len(wanted), error)
                missing = TryLater(
                    "The portal cannot check your limits now.", status=503, code="limits_unavailable", retry_after_s=2
                )
            except Exception as fault:  # a bug must not leave anybody waiting
                logger.exception("cannot load counters")
                missing = ApiError(f"The portal failed ({type(fault).__name__}).")
            for subject, future in wanted.items():
                if not future.done():
                    future.set_result(None if subject in found else missing)

    async def _reap(self) -> None:
        """First what the dead had settled, then what they had open."""
        with contextlib.suppress(LedgerAway):
            for user_id in await inherit(get_config().journal_dir, get_config().redis):
                self.admission.doubt(user_id)
        await self.admission.reap()

    async def _flush_late(self) -> None:
        """The worker writes the records. If it does not, this process does, at the cost of its own speed."""
        if users := self.admission.recount():
            await self._flush()
            for user_id in users:
                if not await self.in_database(quotas.drop, user_id):
                    self.admission.doubt(user_id)
        await self._flush(get_config().usage_backlog_seconds)

    async def _flush(self, older_than_s: float = 0) -> None:
        try:
            await self.in_database(usage.flush, older_than_s)
        except (DatabaseError, redis.RedisError) as error:
            logger.warning("usage records wait in Redis: %s", error)

    async def _every(self, seconds: float, work: Callable[[], "asyncio.Future[None] | object"]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()  # type: ignore[misc]
            except Exception:  # a clock must not stop; what went wrong is in the log
                logger.exception("%s failed", getattr(work, "__qualname__", work))

    async def _cut_off(self) -> None:
        """Ends the answers of those who may have no more: whose account is disabled or gone, or their key revoked."""
        try:
            gone = await self.in_database(no_longer_counts, self.relay.callers())
        except DatabaseError as error:
            logger.error("cannot look up whose requests are to end: %s", error)
            return
        self.relay.break_off(InvalidKey("Your account is disabled, or your API key was revoked."), gone)

    async def _listen(self) -> None:
        """Acts on announced changes at once instead of at the next look."""
        while True:
            try:
                async with (
                    redis.asyncio.Redis.from_url(get_config().redis, protocol=2) as connection,
                    connection.pubsub(ignore_subscribe_messages=True) as channel,
                ):
                    await channel.subscribe(CHANNEL)
                    async for message in channel.listen():
                        if message["data"] == b"engines":
                            await self.refresh_routes()
                        elif message["data"] == b"users":
                            self.callers.forget()
                            await self._cut_off()
            except redis.RedisError as error:
                logger.warning("no announcements of changes: %s", error)
            await asyncio.sleep(1)


def _journal(directory: Path) -> Journal:
    try:
        return Journal(directory)
    except OSError as error:
        logger.error("no journal of settlements (%s): a kill of this process may lose the last of them", error)
        return Journal()
