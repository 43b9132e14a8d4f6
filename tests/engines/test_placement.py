"""Which GPUs an engine gets."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.placement import SLICES, choose, free_slices, slices_for


@dataclass(frozen=True)
class Card:
    index: int
    name: str = "Small"
    memory_bytes: int = 1
    free_slices: int = SLICES


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


def test_those_in_use_are_filled_before_others_are_opened():
    whole, half, little = Card(0), Card(1, free_slices=9), Card(2, free_slices=4)
    assert indexes(choose([whole, half, little], [whole, half, little], 1)) == [2]
    assert indexes(choose([whole, half, little], [whole, half], 1)) == [1]


@pytest.mark.parametrize(
    ("share", "slices"),
    [(None, 20), (0.05, 1), (0.051, 2), (0.1, 2), (0.3, 6), (0.7, 14), (0.95, 19), (0.951, 20), (1.0, 20)],
)
def test_a_share_takes_as_many_slices_as_cover_it(share, slices):
    assert slices_for(share) == slices


@pytest.mark.parametrize(("held", "left"), [(0, 20), (1, 18), (10, 9), (18, 1), (19, 0), (20, 0)])
def test_a_shared_gpu_keeps_one_free(held, left):
    assert free_slices(held) == left


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
