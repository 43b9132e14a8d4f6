"""How much of a conversation goes with its next request. Knows neither engines nor the database."""

from bisect import bisect_right
from collections.abc import Awaitable, Callable
from itertools import accumulate
from typing import TypeVar

Turn = tuple[str, str]
"""A prompt and its answer."""

T = TypeVar("T")
_ESTIMATES = 3
_BYTES_PER_TOKEN = 4.0  # of most text; the first estimate


async def newest_that_fit(
    turns: list[T], sizes: list[int], base: int, room: int, count: Callable[[list[T]], Awaitable[int]]
) -> list[T]:
    """The most of the newest turns whose request takes at most `room` tokens; [] when not even one does.

    `sizes`: the bytes that each turn adds to the request, at least; `base`: those of the request without turns. As a
    token is at least a byte, what is small is not counted. `count` gives the tokens of the request with some turns; it
    is asked a few times at most, and raises what it likes."""
    total = list(accumulate(reversed(sizes), initial=base))  # bytes with so many of the newest turns
    fits, beyond = max(bisect_right(total, room) - 1, 0), len(turns) + 1  # so many fit for certain, so many do not
    bytes_per_token = _BYTES_PER_TOKEN
    for step in range(len(turns)):
        if beyond - fits <= 1:
            break
        # Estimates by size come near; where they do not, halving comes to an end.
        guess = bisect_right(total, room * bytes_per_token) - 1 if step < _ESTIMATES else (fits + beyond) // 2
        guess = min(max(guess, fits + 1), beyond - 1)
        tokens = await count(turns[len(turns) - guess :])
        fits, beyond = (guess, beyond) if tokens <= room else (fits, guess)
        bytes_per_token = total[guess] / max(tokens, 1)
    return turns[len(turns) - fits :]
