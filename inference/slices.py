"""A stream that reserves as it goes: one without max_tokens would else hold all that is left of a small limit.

ample ── half of the slice is used: more is asked for ── granted: ample
                                                      └─ refused: the stream goes on to the end of its slice, asks
                                                         once more, and is ended there, as by the engine: "length"
"""

from collections.abc import Callable

import msgspec

from inference.admission import Admission
from inference.asking import Reservation
from inference.sse import DONE, BadStream, Filter

AGAIN_S = 0.25
ATTEMPTS = 40  # while the ledger is away


class Slices:
    """Passes on what is reserved. `waiting`: what came last is beyond it, and more was asked for; then feed nothing but
    b"" until `changed` was called. `over`: there is no more; what `feed` gave then ends the stream."""

    def __init__(
        self, admission: Admission, reservation: Reservation, stream: Filter, changed: Callable[[], None]
    ) -> None:
        self._admission, self._reservation, self._stream, self._changed = admission, reservation, stream, changed
        self._slice = reservation.generated_tokens
        self._held = b""
        self._beyond: bytes | None = None
        self._last = b""
        self._asked = self._refused = False
        self._attempts = 0
        self.waiting = self.over = False
        self.prompt_tokens = self.generated_tokens = 0
        """Of what has been passed on."""

    def feed(self, data: bytes) -> bytes:
        """What to pass on now. Raises BadStream."""
        self._held += data
        passed = []
        while not self.over and (self._beyond is not None or self._held):
            event = self._next() if self._beyond is None else self._beyond
            usage = self._stream.usage()
            seen = usage.generated_tokens if usage else 0
            if seen > self._reservation.generated_tokens:
                self._beyond = event
                if not self._end_or_wait():
                    break
                passed.append(self._closing())
                self.over = True
                break
            self._beyond = None
            self.waiting = False
            passed.append(event)
            self._last = event or self._last
            if usage:
                self.prompt_tokens, self.generated_tokens = usage.prompt_tokens, seen
            if seen > self._reservation.generated_tokens - self._slice // 2 and not self._refused:
                self._ask()
        return b"".join(passed)

    def _next(self) -> bytes:
        end = self._held.find(b"\n\n") + 2
        event, self._held = (self._held[:end], self._held[end:]) if end > 1 else (self._held, b"")
        return self._stream.feed(event)

    def _end_or_wait(self) -> bool:
        """Whether this is the end: it has been asked for more since the last slice was used up, in vain."""
        if self.waiting and not self._asked:
            return True
        self.waiting = True
        self._ask()
        return False

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._admission.extend(self._reservation, self._slice, self._answered)

    def _answered(self, granted: int | None) -> None:
        """None: the ledger is away."""
        if granted is None and self._attempts < ATTEMPTS:
            self._attempts += 1
            self._admission.later(AGAIN_S, self._again)
            return
        self._asked = False
        self._attempts = 0
        self._refused = not granted
        if self.waiting:
            self._changed()

    def _again(self) -> None:
        self._asked = False
        if not self._reservation.settled:
            self._ask()

    def _closing(self) -> bytes:
        """The end of a chat's stream, made of the last event that was passed on."""
        try:
            chunk = msgspec.json.decode(self._last[:-2].rpartition(b"\n\n")[2].removeprefix(b"data: "))
            chunk.pop("usage", None)
            choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
            events = [{**chunk, "choices": [choice]}]
        except (msgspec.DecodeError, AttributeError, TypeError):
            raise BadStream("a chunk cannot be read") from None
        if self._stream.keeps_usage:
            total = self.prompt_tokens + self.generated_tokens
            usage = {"prompt_tokens": self.prompt_tokens, "total_tokens": total}
            events.append({**chunk, "choices": [], "usage": {**usage, "completion_tokens": self.generated_tokens}})
        return b"".join([b"data: %b\n\n" % msgspec.json.encode(one) for one in events]) + DONE + b"\n\n"
