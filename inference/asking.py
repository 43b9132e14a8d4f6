"""A reservation: how it is asked for, and what it holds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.errors import ApiError
from inference.ledger_link import LedgerAway
from inference.limits import away, queue_full, refusal
from inference.waiting import Place

if TYPE_CHECKING:
    from inference.admission import Admission

LOADS = 4  # attempts to load counters (a user's, a key's) before giving up; one each should do


def _nothing() -> tuple[int, int]:
    return 0, 0


@dataclass(slots=True)
class Reservation:
    """An open request. `prompt_tokens` and `generated_tokens` are what it holds of the limits."""

    request_id: str
    prompt_tokens: int
    generated_tokens: int
    meta: dict[str, Any]
    started: float
    """Event-loop time, seconds."""
    rates: tuple[Any, ...] = ()
    """Requests limit (-1: none) and remaining, tokens limit and remaining, and that limit's window."""
    seen: Callable[[], tuple[int, int]] = _nothing
    """The engine's latest counts, prompt and generated: the checkpoint."""
    settled: bool = False


Verdict = Callable[["Reservation | ApiError"], None]


class Asking:
    """A reservation that was asked for. `cancel` while the answer is on its way: what is granted then is given back,
    and `done` is not called."""

    __slots__ = (
        "_admission", "_cancelled", "_done", "_last", "_loads", "_meta", "_operation", "_prompt_tokens", "deadline",
        "in_flight", "place",
    )  # fmt: skip

    def __init__(
        self, admission: "Admission", operation: tuple[bytes, ...], prompt_tokens: int, meta: dict, done: Verdict
    ) -> None:
        self._admission = admission
        self._operation = operation
        self._prompt_tokens = prompt_tokens
        self._meta = meta
        self._done = done
        self._loads = 0
        self._cancelled = False
        self._last: ApiError | None = None
        self.place: Place = meta["user_id"], meta.get("key_id")
        self.in_flight = False
        self.deadline = 0.0

    def cancel(self) -> None:
        self._cancelled = True
        self._admission.room.leave(self)

    def ask(self) -> None:
        self.in_flight = True
        self._admission.link.call(self._landed, *self._operation)

    def expire(self) -> None:
        """It has waited for too long, or there is no room to wait in."""
        self._finish(self._last or queue_full())

    def _landed(self, answer: Any) -> None:
        self.in_flight = False
        if isinstance(answer, LedgerAway):
            self._finish(away())
        elif answer[0] == b"ok":
            if self._cancelled:
                self._admission.link.call(ignore, b"cancel", self._operation[1])
                return
            self._admission.room.leave(self)
            self._done(self._admission.opened(self._meta, self._prompt_tokens, answer))
        elif self._cancelled:
            return
        elif answer[0] == b"absent":
            self._load(answer[1].decode())
        else:
            self._refused(answer)

    def _refused(self, answer: list[Any]) -> None:
        error, passes = refusal(answer, self._prompt_tokens, int(self._operation[9]), self._admission.now_ms() // 1000)
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


def ignore(answer: Any) -> None:
    """For operations of the ledger whose answer changes nothing."""
