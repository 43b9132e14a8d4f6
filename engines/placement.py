"""Which GPUs an engine gets, and how much of each. Pure: docs/decisions/0024-several-engines-on-one-gpu.md."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

SLICES = 20
"""Of a GPU's memory, each a twentieth. A shared GPU keeps one free, for what CUDA takes beside vLLM's share."""


class Card(Protocol):
    """What matters of a GPU."""

    index: int
    name: str
    memory_bytes: int
    free_slices: int


AnyCard = TypeVar("AnyCard", bound=Card)


def slices_for(gpu_memory_utilization: float | None) -> int:
    """Of each of an engine's GPUs. None, or more than may be shared: all of them."""
    if gpu_memory_utilization is None:
        return SLICES
    return min(math.ceil(round(gpu_memory_utilization * SLICES, 6)), SLICES)


def free_slices(held: int) -> int:
    """That one more engine may get where others hold so many."""
    return max(0, SLICES - 1 - held) if held else SLICES


def slices_to_be_free(wanted: int, slices: int) -> int:
    """Of a unit of so many, for `wanted`: the same rule, where it is asked for a moment to come."""
    return min(wanted + 1, slices)


def choose(present: Sequence[AnyCard], free: Sequence[AnyCard], wanted: int) -> list[AnyCard] | None:
    """`wanted` of the free GPUs, or None: wait. `free`: those of `present` that have enough left.

    An engine's GPUs are of one kind, because tensor parallelism is as slow and as small as the smallest of them;
    unless no kind has that many, then any are better than none. Of several kinds the one with the fewest free GPUs that
    suffices, so that larger engines find room later; of one kind those with the least left, and of these the lowest
    numbers.
    """
    free = sorted(free, key=lambda card: (card.free_slices, card.index))
    fitting = [cards for cards in kinds(free).values() if len(cards) >= wanted]
    if fitting:
        return min(fitting, key=lambda cards: (len(cards), cards[0].index))[:wanted]
    if any(len(cards) >= wanted for cards in kinds(present).values()):
        return None
    return list(free[:wanted]) if len(free) >= wanted else None


def kinds(cards: Sequence[AnyCard]) -> dict[tuple[str, int], list[AnyCard]]:
    """Those with the same name and memory together."""
    found = defaultdict(list)
    for card in cards:
        found[card.name, card.memory_bytes].append(card)
    return found
