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
from dataclasses import dataclass
from typing import Any

import msgspec

from inference.errors import InvalidKey, LimitReached, TryLater
from inference.ledger_link import LedgerAway, LedgerLink
from vllm_portal.log import new_id

logger = logging.getLogger(__name__)
_encode = msgspec.json.encode

LOADS = 3  # attempts to load a user's counters before giving up; each should do


def _nothing() -> tuple[int, int]:
    return 0, 0


@dataclass(slots=True)
class Reservation:
    """An open request. `prompt_tokens` and `generated_tokens` are what it holds of the user's limits."""

    request_id: str
    user_id: int
    prompt_tokens: int
    generated_tokens: int
    meta: dict[str, Any]
    started: float
    """Event-loop time, seconds."""
    seen: Callable[[], tuple[int, int]] = _nothing
    """The engine's latest counts, prompt and generated: the checkpoint."""
    settled: bool = False


class PromptTooLarge(LimitReached):
    """The bound of the prompt does not fit what is left; an exact count might. `left` tokens are not used up yet,
    `free` of them nobody holds."""

    def __init__(self, left: int, free: int) -> None:
        super().__init__(
            f"The prompt does not fit the {max(left, 0)} prompt tokens left of your limit. An admin can raise it."
        )
        self.left = left
        self.free = free


class Admission:
    """Reserves and settles for one event loop."""

    def __init__(self, link: LedgerLink, load_user: Callable[[int], Awaitable[None]], lease_s: float) -> None:
        """`load_user` puts a user's counters into Redis when they are not there."""
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._wall_ms = self._wall_offset_ms()
        self._load_user = load_user
        self._lease_ms = b"%d" % int(lease_s * 1000)
        self._open: dict[str, Reservation] = {}
        self._unsettled: list[tuple[bytes, ...]] = []
        self._settling = 0

    @property
    def open_requests(self) -> int:
        return len(self._open)

    def _wall_offset_ms(self) -> float:
        return time.time() * 1000 - self._loop.time() * 1000

    def now_ms(self) -> int:
        """Unix time in ms, from the loop's clock: set right at each tick."""
        return int(self._loop.time() * 1000 + self._wall_ms)

    async def reserve(
        self,
        *,
        user_id: int,
        token_version: int,
        prompt_tokens: int,
        generated_tokens: int,
        step: int = 1,
        meta: dict[str, Any],
    ) -> Reservation:
        """Holds prompt_tokens and up to generated_tokens (a multiple of `step`, the number of answers; 0: the request
        generates nothing). Raises InvalidKey, PromptTooLarge, LimitReached, TryLater."""
        request_id = new_id()
        least = step if generated_tokens else 0
        meta = {"request_id": request_id, "user_id": user_id, **meta}
        operation = (
            b"admit", request_id.encode(), b"%d" % user_id, b"%d" % token_version, b"%d" % prompt_tokens,
            b"%d" % generated_tokens, b"%d" % least, b"%d" % step, self._lease_ms, _encode(meta),
        )  # fmt: skip
        for _ in range(LOADS):
            verdict, *numbers = await self._ask_admit(request_id, operation)
            if verdict == b"ok":
                reservation = Reservation(request_id, user_id, prompt_tokens, int(numbers[0]), meta, self._loop.time())
                self._open[request_id] = reservation
                return reservation
            if verdict != b"absent":
                raise _refusal(verdict, least, *map(int, numbers))
            await self._load_user(user_id)
        raise _away()

    async def _ask_admit(self, request_id: str, operation: tuple[bytes, ...]) -> list[Any]:
        """The verdict. A caller who leaves while it is on its way holds nothing: what was granted is given back."""
        verdict: asyncio.Future[Any] = self._loop.create_future()

        def landed(answer: Any) -> None:
            if not verdict.done():
                verdict.set_result(answer)
            elif not isinstance(answer, LedgerAway) and answer[0] == b"ok":
                self._link.call(lambda _: None, b"cancel", request_id.encode())

        self._link.call(landed, *operation)
        answer = await verdict
        if isinstance(answer, LedgerAway):
            raise _away()
        return answer

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
            )
        )

    def _send_settlement(self, operation: tuple[bytes, ...]) -> None:
        def landed(answer: Any) -> None:
            self._settling -= 1
            if isinstance(answer, LedgerAway):
                self._unsettled.append(operation)

        self._settling += 1
        self._link.call(landed, *operation)

    async def tick(self) -> None:
        """Once a second: sends settlements that did not get through, checkpoints what is open, renews its lease."""
        self._wall_ms = self._wall_offset_ms()
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
        self._link.call(
            landed, b"checkpoint", reservation.request_id.encode(), b"%d" % prompt, b"%d" % generated, self._lease_ms
        )

    async def reap(self) -> None:
        """Settles requests whose process died."""
        try:
            while await self._link.ask(b"reap", b"100") == 100:
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


def _away() -> TryLater:
    return TryLater("The portal cannot check your limits now.", status=503, code="limits_unavailable", retry_after_s=2)


def _refusal(verdict: bytes, least: int, left: int = 0, free: int = 0) -> Exception:
    if verdict == b"revoked":
        return InvalidKey("This access token no longer counts; get a new one from POST /token.")
    if verdict == b"prompt":
        return PromptTooLarge(left, free)
    if left >= least:
        return TryLater("Your other requests hold the rest of your generated tokens.", retry_after_s=1)
    return LimitReached("Your limit of generated tokens is used up. An admin can raise it.")
