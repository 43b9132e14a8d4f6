"""The data plane's moving parts of one event loop: the link to the ledger, the connections to the engines, the
snapshot of routes, and the clocks that keep them right. Nothing here holds a database connection while a request runs:
the ORM is used from one thread of its own, for moments."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from django.db import DatabaseError, close_old_connections

from accounts import quotas
from inference import usage
from inference.admission import Admission
from inference.callers import Callers, caller_of
from inference.errors import ModelNotFound, TryLater
from inference.ledger_link import LedgerAway, LedgerLink
from inference.limits import Revoked
from inference.relay import Relay
from inference.routing import Caller, Route, Routes, read_routes
from inference.upstream import Pool, Timeouts
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


class Gateway:
    def __init__(self) -> None:
        config = get_config()
        self.loop = asyncio.get_running_loop()
        self.watch = Watch(config.write_timeout_seconds, IDLE_S)
        self.max_body_bytes = config.max_body_bytes
        self._link = LedgerLink(config.redis)
        self._database = ThreadPoolExecutor(1, "data-plane-db")
        self._clocks: list[asyncio.Task[None]] = []
        self._timeouts = Timeouts(
            config.connect_timeout_seconds,
            config.first_byte_timeout_seconds,
            config.idle_timeout_seconds,
            config.total_timeout_seconds,
        )
        self.routes = Routes()
        self._routes_read = 0.0
        self._next_reading: asyncio.Future[None] | None = None
        self._loading: dict[str, asyncio.Future[bool]] = {}
        self.callers = Callers(self._fetch_caller)
        self.admission = Admission(
            self._link,
            self._load_counters,
            config.reservation_lease_seconds,
            config.limit_wait_seconds,
            config.limit_waiting_requests,
        )
        self.started = asyncio.Event()
        self.relay: Relay

    async def start(self) -> None:
        config = get_config()
        self._pool = Pool()
        self.relay = Relay(self.admission, self._pool, self._timeouts)
        with contextlib.suppress(LedgerAway):
            await self._link.open()
        await self.refresh_routes()
        self._clocks = [
            asyncio.create_task(self._every(ROUTES_S, self.refresh_routes)),
            asyncio.create_task(self._every(min(max(config.usage_backlog_seconds / 5, 0.1), 1), self._flush_late)),
            asyncio.create_task(self._every(TICK_S, self.admission.tick)),
            asyncio.create_task(self._every(REAP_S, self.admission.reap)),
            asyncio.create_task(self._listen()),
            asyncio.create_task(self.watch.run()),
        ]
        self.started.set()

    async def stop(self) -> None:
        """Waits for what is open, writes what is settled, and closes. What cannot be written stays in Redis."""
        self.relay.break_off()
        if not await self.admission.drain(DRAIN_S):
            logger.warning("%d requests were still open at the end", self.admission.open_requests)
        for clock in self._clocks:
            clock.cancel()
        await asyncio.gather(*self._clocks, return_exceptions=True)
        await self._flush()
        self._pool.close()
        await self._link.close()
        self._database.shutdown()
        _gateways.pop(asyncio.get_running_loop(), None)

    async def refresh_routes(self) -> None:
        """Reads the READY engines anew. The database being away leaves the last snapshot in force."""
        try:
            self.routes.replace(await self.in_database(read_routes))
        except DatabaseError as error:
            logger.error("cannot read the routes: %s", error)
        self._routes_read = time.monotonic()

    async def find(self, caller: Caller, engine_id: str | None, model: str | None) -> Route:
        """The engine for a request: by its id, else by model. One that is not known may have become ready a moment ago:
        look again, once. Raises InvalidRequest, ModelNotFound."""
        try:
            return self.routes.find(caller, engine_id, model)
        except ModelNotFound:
            await self.look_again()
            return self.routes.find(caller, engine_id, model)

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
        """Many requests of one user may find nothing loaded at once; one of them loads. Raises InvalidKey, TryLater."""
        loading = self._loading.get(subject)
        if loading is None:
            loading = self._loading[subject] = asyncio.ensure_future(self.in_database(usage.load, subject))
            loading.add_done_callback(lambda _: self._loading.pop(subject, None))
        try:
            exists = await asyncio.shield(loading)
        except (DatabaseError, redis.RedisError) as error:
            logger.error("cannot load the counters of %s: %s", subject, error)
            raise TryLater(
                "The portal cannot check your limits now.", status=503, code="limits_unavailable", retry_after_s=2
            ) from None
        if not exists:
            raise Revoked

    async def _flush_late(self) -> None:
        """The worker writes the records. If it does not, this process does, at the cost of its own speed."""
        if users := self.admission.recount():
            await self._flush()
            for user_id in users:
                await self.in_database(quotas.drop, user_id)
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
            except redis.RedisError as error:
                logger.warning("no announcements of changes: %s", error)
            await asyncio.sleep(1)
