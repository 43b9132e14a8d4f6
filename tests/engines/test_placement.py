"""Which GPUs an engine gets."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from engines.placement import choose


@dataclass(frozen=True)
class Card:
    index: int
    name: str = "Small"
    memory_bytes: int = 1


SMALL = [Card(index) for index in range(4)]
LARGE = [Card(index, "Large", 2) for index in range(4, 6)]


def indexes(cards):
    return cards if cards is None else [card.index for card in cards]


def test_the_lowest_numbers_of_one_kind():
    assert indexes(choose(SMALL, SMALL[::-1], 2)) == [0, 1]


def test_the_kind_with_the_fewest_free_ones_so_that_room_for_larger_engines_stays():
    assert indexes(choose(SMALL + LARGE, SMALL + LARGE, 2)) == [4, 5]
    assert indexes(choose(SMALL + LARGE, SMALL + LARGE, 3)) == [0, 1, 2]


def test_kinds_are_not_mixed_where_one_kind_would_do_later():
    assert choose(SMALL + LARGE, [SMALL[0], LARGE[0]], 2) is None


def test_kinds_are_mixed_where_no_kind_has_that_many():
    assert indexes(choose(SMALL + LARGE, SMALL + LARGE, 6)) == [0, 1, 2, 3, 4, 5]


def test_more_than_there_are_is_none():
    assert choose(SMALL, SMALL, 5) is None
    assert choose(SMALL, [], 1) is None


cards = st.lists(st.sampled_from("AB"), max_size=8).map(
    lambda kinds: [Card(index, kind) for index, kind in enumerate(kinds)]
)


@given(cards, st.data(), st.integers(1, 8))
def test_what_is_chosen_is_free_and_exactly_as_much_as_wanted(present, data, wanted):
    free = [card for card in present if data.draw(st.booleans())]
    chosen = choose(present, free, wanted)
    if chosen is not None:
        assert len(set(chosen)) == len(chosen) == wanted
        assert set(chosen) <= set(free)
