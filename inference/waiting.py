"""Where requests wait whose limit is not used up, but held by the same user's other requests. In order, bounded in
number and time. One line a user's key and process; only its first asks, when something of the user's has been settled
here, and ten times a second for what other processes settle."""

import asyncio
from collections import deque
from typing import Protocol

POLL_S = 0.1

Place = tuple[int, int | None]
"""User and API key: a key whose own limit is held keeps nobody waiting who comes without it."""


class Waiting(Protocol):
    place: Place
    in_flight: bool
    deadline: float
    """Event-loop time; 0.0 until it waits."""

    def ask(self) -> None: ...

    def expire(self) -> None: ...


class WaitingRoom:
    def __init__(self, loop: asyncio.AbstractEventLoop, wait_s: float, most: int) -> None:
        """`most` requests wait in a line, each for `wait_s`."""
        self._loop = loop
        self._wait_s = wait_s
        self._most = most
        self._lines: dict[int, dict[int | None, deque[Waiting]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def is_line(self, place: Place) -> bool:
        return bool(self._lines) and place[1] in self._lines.get(place[0], ())

    def stay(self, one: Waiting) -> bool:
        """It may wait (on). False: the line is full, or its time is over."""
        if one.deadline:
            return self._loop.time() < one.deadline
        user, key = one.place
        if self._wait_s <= 0 or len(self._lines.get(user, {}).get(key, ())) >= self._most:
            return False
        one.deadline = self._loop.time() + self._wait_s
        self._lines.setdefault(user, {}).setdefault(key, deque()).append(one)
        if self._timer is None:
            self._timer = self._loop.call_later(POLL_S, self._poll)
        return True

    def leave(self, one: Waiting) -> None:
        """It got its answer, or is not wanted any more."""
        if not self._lines:
            return
        user, key = one.place
        lines = self._lines.get(user, {})
        line = lines.get(key)
        if line is None or one not in line:
            return
        line.remove(one)
        if not line:
            del lines[key]
        if not lines:
            del self._lines[user]
        self.wake(user)

    def wake(self, user_id: int) -> None:
        """Something that this user's requests held has become free."""
        if not self._lines:
            return
        for line in list(self._lines.get(user_id, {}).values()):
            if not line[0].in_flight:
                line[0].ask()

    def _poll(self) -> None:
        self._timer = None
        now = self._loop.time()
        waiting = [one for lines in self._lines.values() for line in lines.values() for one in line]
        for one in waiting:
            if now >= one.deadline and not one.in_flight:
                one.expire()
        for user_id in list(self._lines):
            self.wake(user_id)
        if self._lines:
            self._timer = self._loop.call_later(POLL_S, self._poll)
