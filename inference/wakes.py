"""Requests for engines that sleep: held until their engine is awake, each engine woken once by all of them together.

    find ── Asleep ── hold ── see, see, see … ── ready ── find
                       │         └ lost, or the portal stops: 503
                       └ over after wake_timeout_seconds: 503, and the engine goes on coming up

What is held has reserved nothing yet: it is admitted when it is let through, like any other. That something is left of
its limits is looked at before.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from django.db import DatabaseError

from engines.waking import Sight
from inference.admission import Admission
from inference.call import Call, about
from inference.errors import TryLater, restarting
from vllm_portal.config import Config

logger = logging.getLogger(__name__)

LOOK_S = 0.5
COMES_UP_S = 10
"""What who cannot wait here is told to wait."""
SILENCE_S = 10.0
"""A client that waits is told again after so long, though nothing is new: proxies close connections that are silent."""

See = Callable[[str, str], Awaitable[Sight]]
Tell = Callable[[str], Awaitable[None]]


class _Waking:
    """An engine that some requests wait for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.held = 0
        self.sight = Sight(False, "waking")
        self.news: asyncio.Future[None] = loop.create_future()
        self.watching: asyncio.Task[None] | None = None

    def tell(self, sight: Sight) -> None:
        if sight != self.sight:
            self.sight = sight
            self.news.set_result(None)
            self.news = self._loop.create_future()


class Wakes:
    """Of one event loop."""

    def __init__(self, admission: Admission, see: See, refresh: Callable[[], Awaitable[None]], config: Config) -> None:
        """`see`: `waking.see`. `refresh`: reads the routes anew; called before those who wait go on."""
        self._admission = admission
        self._loop = asyncio.get_running_loop()
        self._see = see
        self._refresh = refresh
        self._timeout_s = config.wake_timeout_seconds
        self._most = config.wake_held_requests
        self._waking: dict[str, _Waking] = {}
        self._stopping = False

    def break_off(self) -> None:
        """The portal stops, and nobody waits for minutes then. Twice is fine. Engines go on waking."""
        self._stopping = True
        for waking in self._waking.values():
            waking.tell(Sight(False, "the portal stops"))

    async def hold(self, call: Call, tell: Tell | None = None) -> None:
        """Returns when the call's engine is ready. `tell` is called with what it does, whenever that is new and every
        SILENCE_S. To be cancelled when the client leaves. Raises ApiError: what would be refused wakes nobody."""
        caller, engine_id = call.caller, call.route.engine_id
        if not caller.may_wake and call.route.comes_back:
            raise TryLater(
                "The engine comes up. Send this again.", status=503, code="engine_waking", retry_after_s=COMES_UP_S
            )
        if not caller.may_wake:
            raise TryLater("The engine is asleep, and this API key may not wake it.", status=503, code="engine_asleep")
        self._admission.withdraw(
            await self._admission.reserve(caller, prompt_tokens=1, generated_tokens=1, about=about(call))
        )
        waking = self._waking.get(engine_id)
        if waking is None:
            waking = self._waking[engine_id] = _Waking(self._loop)
            waking.watching = self._loop.create_task(self._watch(waking, engine_id, caller.username))
        if waking.held >= self._most:
            raise _not_yet(f"{self._most} requests wait for the engine to wake already", waking.sight)
        waking.held += 1
        try:
            await self._wait(waking, tell)
        finally:
            waking.held -= 1

    async def _wait(self, waking: _Waking, tell: Tell | None) -> None:
        deadline = self._loop.time() + self._timeout_s
        while not waking.sight.ready:
            if self._stopping:
                raise restarting()
            if waking.sight.lost:
                raise TryLater(
                    f"The engine could not be woken: {waking.sight.lost}", status=503, code="engine_unavailable"
                )
            left_s = deadline - self._loop.time()
            if left_s <= 0:
                raise _not_yet(f"The engine is not awake after {self._timeout_s:g} s", waking.sight)
            news = waking.news
            if tell is not None:
                await tell(waking.sight.told)
            await asyncio.wait([news], timeout=min(left_s, SILENCE_S))

    async def _watch(self, waking: _Waking, engine_id: str, by: str) -> None:
        """Looks at least once, so that it wakes also where those who asked have left; then while somebody waits."""
        try:
            while True:
                waking.tell(await self._look(engine_id, by))
                if waking.sight.ready or waking.sight.lost or not waking.held:
                    return
                await asyncio.sleep(LOOK_S)
        except Exception:  # a bug must not leave anybody waiting
            logger.exception("an engine cannot be woken")
            waking.tell(Sight(False, "", "The portal failed."))
        finally:
            del self._waking[engine_id]

    async def _look(self, engine_id: str, by: str) -> Sight:
        try:
            sight = await self._see(engine_id, f"a request of {by}")
            if sight.ready:
                await self._refresh()
        except DatabaseError as error:
            logger.error("cannot look at an engine that wakes: %s", error)
            return Sight(False, "waiting for the database")
        return sight


def _not_yet(why: str, sight: Sight) -> TryLater:
    return TryLater(
        f"{why} ({sight.told}). Send this again.", status=503, code="engine_waking", retry_after_s=COMES_UP_S
    )
