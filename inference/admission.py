"""The ledger's door: reserve before anything is forwarded, settle once, or be settled at the last checkpoint.

    reserve ── forward ── settle(completed | aborted | refused | failed)
       │                     │
       └ refused: nothing    └ never: the lease runs out, the reaper settles at the checkpoint ("expired")

Counts live in Redis (`ledger.lua`); records go from there to the database (`inference.usage`). When the counters
cannot be had, nothing is let through.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from inference.asking import Asking, Reservation, Verdict, ignore
from inference.errors import ApiError
from inference.ledger_link import LedgerAway, LedgerLink
from inference.routing import Caller
from inference.waiting import WaitingRoom
from vllm_portal.log import new_id

logger = logging.getLogger(__name__)
KEEP_S = 10.0  # more than a record waits for the database
KEPT = 20_000
_encode = msgspec.json.encode


class Admission:
    """Reserves and settles for one event loop."""

    def __init__(
        self,
        link: LedgerLink,
        load: Callable[[str], Awaitable[None]],
        lease_s: float,
        wait_s: float = 0.0,
        most_waiting: int = 100,
    ) -> None:
        """`load` puts a subject's counters into Redis when they are not there; it may raise ApiError. `wait_s`: how
        long a request waits for what the user's others hold."""
        self.link = link
        self._loop = asyncio.get_running_loop()
        self.room = WaitingRoom(self._loop, wait_s, most_waiting)
        self._month = b"0"
        self._set_clock()
        self._load = load
        self._loading: set[asyncio.Task[None]] = set()
        self._lease_ms = b"%d" % int(lease_s * 1000)
        self._open: dict[str, Reservation] = {}
        self._unsettled: list[tuple[bytes, ...]] = []
        self._late: deque[tuple[float, int, tuple[bytes, ...]]] = deque(maxlen=KEPT)
        """Settlements of the last KEEP_S: when, whose, what."""
        self._touched: set[int] = set()
        link.on_return = self._repeat
        self._settling = 0

    @property
    def open_requests(self) -> int:
        return len(self._open)

    def _wall_offset_ms(self) -> float:
        return time.time() * 1000 - self._loop.time() * 1000

    def _set_clock(self) -> None:
        self._wall_ms = self._wall_offset_ms()
        self._month = time.strftime("%Y%m", time.gmtime()).encode()

    def now_ms(self) -> int:
        """Unix time in ms, from the loop's clock: set right at each tick."""
        return int(self._loop.time() * 1000 + self._wall_ms)

    def ask(
        self,
        caller: Caller,
        done: Verdict,
        *,
        prompt_tokens: int,
        generated_tokens: int,
        step: int = 1,
        meta: dict[str, Any],
    ) -> Asking:
        """Holds prompt_tokens and up to generated_tokens (a multiple of `step`, the number of answers; 0: the request
        generates nothing). `done` gets the Reservation, or InvalidKey, PromptTooLarge, LimitReached, TryLater; never
        within this call."""
        request_id = new_id()
        meta = {"request_id": request_id, "user_id": caller.user_id, **meta}
        key = b""
        if caller.key_id is not None:
            key = b"k%d" % caller.key_id
            meta["key_id"] = caller.key_id
        operation = (
            b"admit", request_id.encode(), b"%d" % caller.user_id, b"%d" % caller.token_version, caller.session, key,
            b"%d" % caller.key_version, b"%d" % prompt_tokens, b"%d" % generated_tokens,
            b"%d" % (step if generated_tokens else 0), b"%d" % step, self._lease_ms, self._month,
            _encode(meta),
        )  # fmt: skip
        asking = Asking(self, operation, prompt_tokens, meta, done)
        if self.room.is_line(asking.place):
            if not self.room.stay(asking):
                self._loop.call_soon(asking.expire)
        else:
            asking.ask()
        return asking

    async def reserve(self, caller: Caller, **wish: Any) -> Reservation:
        """As `ask`, awaited. Raises what `ask` gives as an error. Cancelled, it holds nothing."""
        verdict: asyncio.Future[Reservation | ApiError] = self._loop.create_future()
        asking = self.ask(caller, verdict.set_result, **wish)
        try:
            answer = await verdict
        except asyncio.CancelledError:
            asking.cancel()
            if verdict.done() and not verdict.cancelled() and isinstance(granted := verdict.result(), Reservation):
                self.withdraw(granted)
            raise
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def opened(self, meta: dict[str, Any], prompt_tokens: int, answer: list[Any]) -> Reservation:
        """For Asking: what was granted is open from now on, and checkpointed until it is settled."""
        _, granted, *rates = answer
        now = self._loop.time()
        reservation = Reservation(meta["request_id"], prompt_tokens, granted, meta, now, tuple(rates))
        self._open[reservation.request_id] = reservation
        return reservation

    def withdraw(self, reservation: Reservation) -> None:
        """Gives back what was reserved for a request that was never forwarded. No record."""
        reservation.settled = True
        self._open.pop(reservation.request_id, None)
        self.link.call(ignore, b"cancel", reservation.request_id.encode())
        self.room.wake(reservation.meta["user_id"])

    def load(self, subject: str, done: Callable[[ApiError | None], None]) -> None:
        """For Asking: loads a subject's counters, then tells."""

        async def load() -> None:
            try:
                await self._load(subject)
            except ApiError as error:
                done(error)
            else:
                done(None)

        task = self._loop.create_task(load())
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    def settle(
        self,
        reservation: Reservation,
        *,
        prompt_tokens: int,
        generated_tokens: int,
        cached_tokens: int = 0,
        outcome: str,
        exact: bool,
        first_token_ms: int | None = None,
    ) -> None:
        """Charges and releases, at once and exactly once; a second call does nothing. Never raises: when the ledger is
        away the settlement is kept and sent again."""
        if reservation.settled:
            return
        reservation.settled = True
        self._open.pop(reservation.request_id, None)
        elapsed_s = self._loop.time() - reservation.started
        record = {
            **reservation.meta,
            "prompt_tokens": prompt_tokens,
            "generated_tokens": generated_tokens,
            "cached_tokens": cached_tokens,
            "outcome": outcome,
            "exact": exact,
            "first_token_ms": first_token_ms,
            "duration_ms": int(elapsed_s * 1000),
        }
        self._send_settlement(
            (
                b"settle",
                reservation.request_id.encode(),
                b"%d" % prompt_tokens,
                b"%d" % generated_tokens,
                _encode(record),
            ),
            reservation.meta["user_id"],
        )
        self.room.wake(reservation.meta["user_id"])  # asks after this settlement, in the same call

    def _repeat(self) -> None:
        """The ledger was away. A Redis that crashed has lost up to its last second, one without a disk everything: what
        is open is opened again if it is not, and what was settled lately is written again. Records that come twice are
        written once; counters that they were added to twice are loaded anew (`recount`)."""
        for reservation in self._open.values():
            key = reservation.meta.get("key_id")
            self._touched.add(reservation.meta["user_id"])
            self.link.call(
                ignore, b"reopen", reservation.request_id.encode(), b"%d" % reservation.meta["user_id"],
                b"" if key is None else b"k%d" % key, b"%d" % reservation.prompt_tokens,
                b"%d" % reservation.generated_tokens, self._lease_ms, _encode(reservation.meta),
            )  # fmt: skip
        after = self._loop.time() - KEEP_S
        for when, user_id, operation in self._late:
            if when > after:
                self._touched.add(user_id)
                self.link.call(ignore, *operation)

    def recount(self) -> set[int]:
        """Users whose live counters may hold something twice, each told once."""
        touched, self._touched = self._touched, set()
        return touched

    def _send_settlement(self, operation: tuple[bytes, ...], user_id: int | None = None) -> None:
        if user_id is not None:
            self._late.append((self._loop.time(), user_id, operation))

        def landed(answer: Any) -> None:
            self._settling -= 1
            if isinstance(answer, LedgerAway):
                self._unsettled.append(operation)

        self._settling += 1
        self.link.call(landed, *operation)

    async def tick(self) -> None:
        """Once a second: sends settlements that did not get through, checkpoints what is open, renews its lease."""
        self._set_clock()
        self._resend()
        for reservation in list(self._open.values()):
            self._checkpoint(reservation)

    def _resend(self) -> None:
        unsettled, self._unsettled = self._unsettled, []
        for operation in unsettled:
            self._send_settlement(operation)

    def _checkpoint(self, reservation: Reservation) -> None:
        def landed(answer: Any) -> None:
            if answer == 0 and not reservation.settled:
                logger.warning("request %s was settled by the reaper while it ran", reservation.request_id)

        prompt, generated = reservation.seen()
        generated = min(generated, reservation.generated_tokens)
        self.link.call(
            landed, b"checkpoint", reservation.request_id.encode(), b"%d" % prompt, b"%d" % generated, self._lease_ms
        )

    async def reap(self) -> None:
        """Settles requests whose process died."""
        try:
            while await self.link.ask(b"reap", b"100") == 100:
                pass
        except LedgerAway:
            return

    async def drain(self, timeout_s: float) -> bool:
        """Waits until nothing is open and every settlement has got through. False: it did not come to that in time."""
        deadline = self._loop.time() + timeout_s
        while self._open or self._unsettled or self._settling:
            if self._loop.time() > deadline:
                return False
            self._resend()
            await asyncio.sleep(0.02)
        return True
