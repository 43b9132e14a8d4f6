"""An engine that cannot be reached is left alone for a while, so that who asks is told at once. Pure; times in seconds.

closed ── FAILURES connections refused in a row ── open ── its pause is over: one may try ─┬─ closed
                                                    └───── twice the pause, 15 s at most ──┘
"""

FAILURES = 3
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0


class Breaker:
    """Of one engine and one process."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0

    def is_doubted(self, now: float) -> bool:
        """It failed a moment ago: where another engine serves the same, that one is asked."""
        return now < self._until

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES

    def lets_through(self, now: float) -> bool:
        """Whether a request may try. While it is open, one after each pause."""
        if not self.is_open:
            return True
        if now < self._until:
            return False
        self._until = now + self._pause_s()  # the others wait for what this one finds
        return True

    def wait_s(self, now: float) -> float:
        return max(self._until - now, 0.0)

    def failed(self, now: float) -> None:
        """It could not be connected to."""
        self._failures += 1
        self._until = now + self._pause_s()

    def broke_off(self, now: float) -> None:
        """It closed a connection in the middle of an answer, as an engine does that dies. It may still be there: this
        alone keeps nobody from asking it."""
        self._until = max(self._until, now + FIRST_PAUSE_S)

    def answered(self) -> None:
        self._failures = 0
        self._until = 0.0

    def _pause_s(self) -> float:
        return min(FIRST_PAUSE_S * 2 ** max(self._failures - FAILURES, 0), LONGEST_PAUSE_S)
