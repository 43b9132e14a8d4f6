"""Which GPUs an engine gets. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Card(Protocol):
    """What matters of a GPU."""

    index: int
    name: str
    memory_bytes: int


AnyCard = TypeVar("AnyCard", bound=Card)


def choose(present: Sequence[AnyCard], free: Sequence[AnyCard], wanted: int) -> list[AnyCard] | None:
    """`wanted` of the free GPUs, or None: wait. `free` is a part of `present`.

    An engine's GPUs are of one kind, because tensor parallelism is as slow and as small as the smallest of them;
    unless no kind has that many, then any are better than none. Of several kinds the one with the fewest free GPUs that
    suffices, so that larger engines find room later; of one kind the lowest numbers.
    """
    free = sorted(free, key=lambda card: card.index)
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
