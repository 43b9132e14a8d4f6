"""A reservation: how it is asked for, and what it holds."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from inference.errors import ApiError
from inference.ledger_link import LedgerAway, NotSent
from inference.limits import away, queue_full, refusal
from inference.routing import Caller
from inference.waiting import Place

if TYPE_CHECKING:
    from inference.admission import Admission

LOADS = 4  # attempts to load counters (a user's, a key's) before giving up; one each should do


def _nothing() -> tuple[int, int]:
    return 0, 0


class Reservation:
    """An open request. `prompt_tokens` and `generated_tokens` are what it holds of the limits."""

    __slots__ = (
        "caller", "checkpoint", "extended", "generated_tokens", "holds", "meta", "prompt_tokens", "request_id", "seen",
        "settled", "started", "told",
    )  # fmt: skip

    def __init__(
        self,
        caller: Caller,
        request_id: bytes,
        meta: bytes,
        prompt_tokens: int,
        generated_tokens: int,
        started: float,
        told: Sequence[bytes],
        holds: bytes = b"",
    ) -> None:
        """`meta`: the beginning of its record, a JSON object without its end. `started`: event-loop time, seconds.
        `told`: the ledger's answer, field by field, as `limits.rate_lines` reads it. `holds`: the windows and numbers
        at once that it counts in, as the ledger names them."""
        self.caller = caller
        self.request_id = request_id
        self.meta = meta
        self.prompt_tokens = prompt_tokens
        self.generated_tokens = generated_tokens
        self.started = started
        self.told = told
        self.holds = holds
        self.seen: Callable[[], tuple[int, int]] = _nothing
        """The engine's latest counts, prompt and generated."""
        self.checkpoint = (0, 0)
        """What the ledger was told of them last: what is charged if this process dies."""
        self.extended = False
        """More was asked for, which it may hold without knowing it yet."""
        self.settled = False


Verdict = Callable[["Reservation | ApiError"], None]


class Asking:
    """A reservation that was asked for. `least`: the fewest generated tokens that are worth a start. `cancel` while the
    answer is on its way: what is granted then is given back, and `done` is not called."""

    __slots__ = (
        "_admission", "_cancelled", "_done", "_last", "_least", "_loads", "_operation", "caller", "deadline",
        "in_flight", "meta", "place", "prompt_tokens", "request_id",
    )  # fmt: skip

    def __init__(
        self,
        admission: "Admission",
        caller: Caller,
        request_id: bytes,
        meta: bytes,
        prompt_tokens: int,
        least: int,
        operation: bytes,
        done: Verdict,
    ) -> None:
        self._admission = admission
        self.caller = caller
        self.request_id = request_id
        self.meta = meta
        self.prompt_tokens = prompt_tokens
        self._least = least
        self._operation = operation
        self._done = done
        self._loads = 0
        self._cancelled = False
        self._last: ApiError | None = None
        self.place: Place = caller.user_id, caller.key_id
        self.in_flight = False
        self.deadline = 0.0

    def cancel(self) -> None:
        self._cancelled = True
        self._admission.room.leave(self)

    def ask(self) -> None:
        self.in_flight = True
        self._admission.link.send(self._landed, self._operation)

    def expire(self) -> None:
        """It has waited for too long, or there is no room to wait in."""
        self._finish(self._last or queue_full())

    def _landed(self, answer: bytes | LedgerAway) -> None:
        self.in_flight = False
        if isinstance(answer, LedgerAway):
            if not isinstance(answer, NotSent):
                self._admission.doubt_request(self.request_id)
            self._finish(away())
        elif answer.startswith(b"ok"):
            if self._cancelled:
                self._admission.link.call(ignore, b"cancel", self.request_id)
                return
            self._admission.room.leave(self)
            self._done(self._admission.opened(self, answer))
        elif self._cancelled:
            return
        elif answer.startswith(b"absent"):
            self._load(answer.partition(b"\t")[2].decode())
        else:
            self._refused(answer)

    def _refused(self, answer: bytes) -> None:
        error, passes = refusal(answer, self.prompt_tokens, self._least, self._admission.now_ms() // 1000)
        self._last = error
        if not passes or not self._admission.room.stay(self):
            self._finish(error)

    def _finish(self, answer: ApiError) -> None:
        self._admission.room.leave(self)
        if not self._cancelled:
            self._done(answer)

    def _load(self, subject: str) -> None:
        if self._loads == LOADS:
            self._finish(away())
            return
        self._loads += 1
        self.in_flight = True
        self._admission.load(subject, self._loaded)

    def _loaded(self, error: ApiError | None) -> None:
        self.in_flight = False
        if error is not None:
            self._finish(error)
        elif not self._cancelled:
            self.ask()


def ignore(answer: bytes | LedgerAway) -> None:
    """For operations of the ledger whose answer changes nothing."""
