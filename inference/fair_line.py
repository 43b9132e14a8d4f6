"""Who is next where an engine is full: start-time fair queueing by user, in tokens; interactive before batch. Pure.

    enter ─┬─ there is room ── going ── leave: the next one goes
           └─ waiting ─┬─ its turn: `go` is called ── going
                       └─ leave: it waited for too long, or its client left

A user's requests are told apart from others' by what they have been given: whoever waits with the least tokens, by
weight, is next, however many requests somebody else has sent before. A little room is kept for users who have nothing
under way, so that they need not wait for the end of somebody's long answer: the engine takes them at its next step.
"""

import heapq
import itertools
from collections.abc import Callable
from typing import Protocol

_count = itertools.count(1).__next__


class Timer(Protocol):
    def cancel(self) -> None: ...


class Place:
    """One request's."""

    __slots__ = ("batch", "go", "going", "left", "number", "start", "timer", "tokens", "user_id", "weight")

    def __init__(self, user_id: int, tokens: int, batch: bool, weight: float, go: Callable[[], None]) -> None:
        """`tokens`: what it may cost."""
        self.user_id = user_id
        self.tokens = tokens
        self.batch = batch
        self.weight = weight
        self.go = go
        self.start = 0.0
        """In the line's virtual time: tokens by weight."""
        self.number = _count()
        self.going = self.left = False
        self.timer: Timer | None = None
        """Ends the wait; cancelled when it goes or leaves."""

    def __lt__(self, other: "Place") -> bool:
        return (self.batch, self.start, self.number) < (other.batch, other.start, other.number)


class FairLine:
    """Of one engine and one process."""

    def __init__(self, most: int = 256) -> None:
        """`most` requests are under way at once; an eighth of them is for users who have nothing under way."""
        self.set_most(most)
        self.in_flight = 0
        self.waiting = 0
        self.outstanding = 0
        """Tokens (`Body.weight`) of the requests that were sent here and have not ended, whatever they wait for."""
        self._of_user: dict[int, int] = {}
        self._heap: list[Place] = []
        self._moving = False
        self._virtual = 0.0
        self._finish: dict[int, float] = {}

    def set_most(self, most: int) -> None:
        self._most = most
        self._usual = most - most // 8

    @property
    def length(self) -> int:
        return self.in_flight + self.waiting

    def enter(self, place: Place) -> bool:
        """Whether it may go at once. Else it waits: `go` is called, within some other place's `leave`."""
        if not self.waiting and self._has_room(place):
            if self.in_flight or self._finish:
                self._stamp(place)
            self._start(place)
            return True
        self._stamp(place)
        if self._has_room(place) and place < self._heap[0]:
            self._start(place)
            return True
        heapq.heappush(self._heap, place)
        self.waiting += 1
        return False

    def leave(self, place: Place) -> None:
        """It is over, or is not wanted any more. A second call does nothing."""
        if place.left:
            return
        place.left = True
        if place.timer:
            place.timer.cancel()
        if place.going:
            self.in_flight -= 1
            theirs = self._of_user.pop(place.user_id) - 1
            if theirs:
                self._of_user[place.user_id] = theirs
        else:
            self.waiting -= 1
        if self._heap or not self.in_flight:
            self._next()  # for whoever waited behind it, too

    def _next(self) -> None:
        if self._moving:  # called by a `go` that ended at once: the loop below goes on
            return
        self._moving = True
        try:
            self._move()
        finally:
            self._moving = False

    def _move(self) -> None:
        while self._heap:
            place = self._heap[0]
            if not place.left and not self._has_room(place):
                return
            heapq.heappop(self._heap)
            if not place.left:
                self.waiting -= 1
                self._start(place)
                place.go()
        if not self.in_flight:
            self._finish.clear()
            self._virtual = 0.0

    def _has_room(self, place: Place) -> bool:
        if self.in_flight < self._usual:
            return True
        return self.in_flight < self._most and not place.batch and place.user_id not in self._of_user

    def _stamp(self, place: Place) -> None:
        finish = self._finish.get(place.user_id, 0.0)
        place.start = self._virtual if self._virtual > finish else finish
        self._finish[place.user_id] = place.start + place.tokens / place.weight

    def _start(self, place: Place) -> None:
        place.going = True
        if place.timer:
            place.timer.cancel()
        self.in_flight += 1
        self._of_user[place.user_id] = self._of_user.get(place.user_id, 0) + 1
        if place.start > self._virtual:
            self._virtual = place.start
