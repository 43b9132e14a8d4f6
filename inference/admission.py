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
from collections.abc import Awaitable, Callable
from struct import Struct
from typing import Any

from inference.asking import Asking, Reservation, Verdict, ignore
from inference.digits import digits
from inference.errors import ApiError
from inference.journal import Journal
from inference.ledger_link import LedgerAway, LedgerLink, counted
from inference.routing import Caller
from inference.waiting import WaitingRoom
from vllm_portal.ids import new_id

logger = logging.getLogger(__name__)
KEEP_MS = 10_000  # more than a record waits for the database

# Operations as the script unpacks them: who pays, the request's id with its length, numbers, and what is kept of an
# open request: a settlement's record stands apart.
_ADMIT_NUMBERS = Struct(">ddddd").pack
_SETTLE_NUMBERS = Struct(">ddddH").pack
_WHOLE = ("completed", "refused")
_JSON = {True: b"true", False: b"false"}


class Admission:
    """Reserves and settles for one event loop."""

    def __init__(
        self,
        link: LedgerLink,
        load: Callable[[str], Awaitable[None]],
        lease_s: float,
        wait_s: float = 0.0,
        most_waiting: int = 100,
        journal: Journal | None = None,
    ) -> None:
        """`load` puts a subject's counters into Redis when they are not there; it may raise ApiError. `wait_s`: how
        long a request waits for what the user's others hold. `journal`: where settlements outlive this process."""
        self.link = link
        self._loop = asyncio.get_running_loop()
        self.room = WaitingRoom(self._loop, wait_s, most_waiting)
        self.journal = Journal() if journal is None else journal
        self._lease_ms = b"%d" % int(lease_s * 1000)
        self._set_clock()
        self._load = load
        self._loading: set[asyncio.Task[None]] = set()
        self._open: dict[bytes, Reservation] = {}
        self._unsettled: list[tuple[bytes, bytes]] = []
        self._touched: set[int] = set()
        self._doubtful: list[bytes] = []
        """Requests that may be open in the ledger, and whose askers were told that it is away."""
        link.on_return = self._repeat
        self._settling = 0

    @property
    def open_requests(self) -> int:
        return len(self._open)

    def _wall_offset_ms(self) -> float:
        return time.time() * 1000 - self._loop.time() * 1000

    def _set_clock(self) -> None:
        self._wall_ms = self._wall_offset_ms()
        self.link.header = self.journal.process.encode(), self._lease_ms, time.strftime("%Y%m", time.gmtime()).encode()

    def now_ms(self) -> int:
        """Unix time in ms, from the loop's clock: set right at each tick."""
        return int(self._loop.time() * 1000 + self._wall_ms)

    def ask(
        self,
        caller: Caller,
        done: Verdict,
        prompt_tokens: int,
        generated_tokens: int,
        step: int = 1,
        slice_tokens: int = 0,
        about: bytes = b"",
        request_id: str | None = None,
    ) -> Asking:
        """Holds prompt_tokens and up to generated_tokens (a multiple of `step`, the number of answers; 0: the request
        generates nothing). With `slice_tokens`, no more than those are held where generated_tokens would be a large
        part of what is left; `extend` asks for more. `about`: what the record says of the engine, as members of a JSON
        object. `done` gets the Reservation, or InvalidKey, PromptTooLarge, LimitReached, TryLater; never within this
        call."""
        named = (request_id or new_id()).encode()
        meta = b"".join(
            (b'{"request_id":"', named, b'",', caller.about, b",", about, b',"started_ms":', digits(self.now_ms()))
        )
        least = step if generated_tokens else 0
        operation = b"".join((
            b"A", caller.rights, counted(named),
            _ADMIT_NUMBERS(prompt_tokens, generated_tokens, least, step, slice_tokens),
            caller.opened, digits(prompt_tokens), b" ", digits(generated_tokens), b" 0 0||", meta, b"}",
        ))  # fmt: skip
        asking = Asking(self, caller, named, meta, prompt_tokens, least, operation, done)
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

    def opened(self, asking: Asking, answer: bytes) -> Reservation:
        """For Asking: what was granted is open from now on, and checkpointed until it is settled."""
        told, request_id = answer.split(b"\t"), asking.request_id
        reservation = self._open[request_id] = Reservation(
            asking.caller, request_id, asking.meta, asking.prompt_tokens, int(told[1]), self._loop.time(), told, told[7]
        )
        return reservation

    def extend(self, reservation: Reservation, tokens: int, done: Callable[[int | None], None]) -> None:
        """Holds up to so many generated tokens more. `done` gets how many: 0 where none are free, None where the ledger
        is away."""

        def landed(answer: bytes | LedgerAway) -> None:
            if isinstance(answer, LedgerAway):
                done(None)
                return
            told, _, holds = answer.partition(b"\t")
            granted = int(told)
            if granted:
                reservation.generated_tokens += granted
                reservation.holds = holds
            if not reservation.settled:
                done(granted)

        reservation.extended = True
        self.link.call(landed, b"extend", reservation.request_id, b"%d" % tokens, b"1")

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        self._loop.call_later(seconds, work)

    def withdraw(self, reservation: Reservation) -> None:
        """Gives back what was reserved for a request that was never forwarded. No record."""
        reservation.settled = True
        self._open.pop(reservation.request_id, None)
        self.link.call(ignore, b"cancel", reservation.request_id)
        self.room.wake(reservation.caller.user_id)

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
        prompt_tokens: int,
        generated_tokens: int,
        outcome: str,
        exact: bool,
        cached_tokens: int = 0,
        first_token_ms: int | None = None,
    ) -> None:
        """Charges and releases, exactly once; a second call does nothing. Never raises: when the ledger is away the
        settlement is kept and sent again. After this call it is in the journal: it outlives this process."""
        if reservation.settled:
            return
        reservation.settled = True
        self._open.pop(reservation.request_id, None)
        caller, request_id = reservation.caller, reservation.request_id
        now = self._loop.time()
        record = b"".join((
            reservation.meta,
            b',"prompt_tokens":', digits(prompt_tokens), b',"generated_tokens":', digits(generated_tokens),
            b',"cached_tokens":', digits(cached_tokens), b',"outcome":"', outcome.encode(), b'","exact":', _JSON[exact],
            b',"first_token_ms":', b"null" if first_token_ms is None else digits(first_token_ms),
            b',"duration_ms":', digits(int((now - reservation.started) * 1000)),
            b"}" if exact and outcome in _WHOLE else b',"reserved_tokens":%d}' % reservation.generated_tokens,
        ))  # fmt: skip
        # What was asked for later, and what it counts in, is looked up.
        held, holds = (-1, b"") if reservation.extended else (reservation.generated_tokens, reservation.holds)
        operation = b"".join((
            b"S", caller.payers, counted(request_id),
            _SETTLE_NUMBERS(reservation.prompt_tokens, held, prompt_tokens, generated_tokens, len(holds)), holds,
        ))  # fmt: skip
        self.journal.append(int(now * 1000 + self._wall_ms), caller.user_id, operation + record)
        self._send_settlement(operation, record)
        self.room.wake(caller.user_id)  # asks after this settlement, in the same call

    def _repeat(self) -> None:
        """The ledger was away. A Redis that crashed has lost up to its last second, one without a disk everything: what
        is open is opened again if it is not, and what was settled lately is written again. Records that come twice are
        written once; counters that they were added to twice are loaded anew (`recount`)."""
        doubtful, self._doubtful = self._doubtful, []
        for request_id in doubtful:
            self.link.call(ignore, b"cancel", request_id)
        for reservation in self._open.values():
            self._touched.add(reservation.caller.user_id)
            self._reopen(reservation)
        for _, user_id, operation in self.journal.since(self.now_ms() - KEEP_MS):
            self._touched.add(user_id)
            self.link.send(ignore, operation)

    def _reopen(self, reservation: Reservation) -> None:
        def landed(answer: bytes | LedgerAway) -> None:
            if answer == b"1":  # its windows are lost with the rest, or counted anew from the records
                reservation.holds = b""

        held = b"%d" % reservation.prompt_tokens, b"%d" % reservation.generated_tokens
        payers = reservation.caller.subjects
        self.link.call(landed, b"reopen", *payers, reservation.request_id, *held, reservation.meta + b"}")

    def recount(self) -> set[int]:
        """Users whose live counters may hold something twice, each told once."""
        touched, self._touched = self._touched, set()
        return touched

    def doubt_request(self, request_id: bytes) -> None:
        """For Asking: nobody knows whether it was granted. It is given back when the ledger is there again."""
        self._doubtful.append(request_id)

    def doubt(self, user_id: int) -> None:
        """The user's live counters could not be loaded anew: `recount` tells the user again."""
        self._touched.add(user_id)

    def _send_settlement(self, operation: bytes, record: bytes) -> None:
        def landed(answer: bytes | LedgerAway) -> None:
            self._settling -= 1
            if isinstance(answer, LedgerAway):
                self._unsettled.append((operation, record))

        self._settling += 1
        self.link.send_along(landed, operation, record)

    async def tick(self) -> None:
        """Once a second: sends settlements that did not get through, says that this process lives, and what is open has
        cost so far."""
        self._set_clock()
        self._resend()
        if self._open:
            self.link.call(ignore, b"alive")
        for reservation in list(self._open.values()):
            self._checkpoint(reservation)

    def _resend(self) -> None:
        unsettled, self._unsettled = self._unsettled, []
        for operation, record in unsettled:
            self._send_settlement(operation, record)

    def _checkpoint(self, reservation: Reservation) -> None:
        def landed(answer: bytes | LedgerAway) -> None:
            if answer == b"0" and not reservation.settled:
                logger.warning("request %s was settled by the reaper while it ran", reservation.request_id.decode())

        seen = reservation.seen()
        if seen == reservation.checkpoint:
            return
        reservation.checkpoint = seen
        prompt, generated = seen
        generated = min(generated, reservation.generated_tokens)
        self.link.call(landed, b"checkpoint", reservation.request_id, b"%d" % prompt, b"%d" % generated)

    async def reap(self) -> None:
        """Settles requests whose process died: at once where that is known, else once it was silent for a lease, and
        for another after somebody noticed. It may only have had no Redis to talk to."""
        try:
            while await self.link.ask(b"reap", b"100", self._lease_ms) == b"100":
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
