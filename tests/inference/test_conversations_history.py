"""Which turns of a history go with a request: the most of the newest that fit."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.history import newest_that_fit


def fitting(tokens, room, base=5, sizes=None):
    """What is kept of turns of so many tokens each, and for which of them the engine had to count. `sizes`: their
    bytes, four a token unless told."""
    turns = list(range(len(tokens)))
    asked = []

    async def count(kept):
        asked.append(len(kept))
        return base + sum(tokens[turn] for turn in kept)

    sizes = sizes or [4 * size for size in tokens]
    return asyncio.run(newest_that_fit(turns, sizes, 4 * base, room, count)), asked


def test_what_fits_by_its_bytes_is_not_counted():
    assert fitting([10, 10, 10], room=200) == ([0, 1, 2], [])


def test_nothing_stays_nothing():
    assert fitting([], room=0) == ([], [])


def test_all_stay_that_fit_by_tokens_though_not_by_bytes():
    assert fitting([10, 10, 10], room=35)[0] == [0, 1, 2]


def test_the_oldest_goes_first_and_no_more_than_must():
    assert fitting([10, 10, 10], room=34)[0] == [1, 2]


def test_a_huge_old_turn_takes_none_of_the_small_ones_with_it():
    assert fitting([10_000, *[10] * 20], room=205)[0] == list(range(1, 21))


def test_a_single_turn_that_is_too_large_goes():
    assert fitting([10_000], room=100)[0] == []


def test_a_huge_newest_turn_leaves_nothing_for_older_ones():
    assert fitting([1, 1, 1, 10_000], room=100)[0] == []


def test_sizes_that_mislead_cost_few_counts_all_the_same():
    """What is said in few tokens is large here, and the rest is small: each estimate is far off."""
    kept, asked = fitting([*[10] * 200, 1], room=106, sizes=[*[10] * 200, 8000])
    assert kept == list(range(190, 201))
    assert len(asked) <= 10


@settings(deadline=None)
@given(
    turns=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 30)), max_size=60),
    room=st.integers(0, 5000),
)
def test_it_is_always_the_most_that_fit_and_few_counts_find_it(turns, room):
    tokens = [count for count, _ in turns]
    kept, asked = fitting(tokens, room, sizes=[count * more for count, more in turns])
    assert kept == list(range(len(tokens) - len(kept), len(tokens)))
    assert not kept or 5 + sum(tokens[turn] for turn in kept) <= room
    assert len(kept) == len(tokens) or 5 + sum(tokens[len(tokens) - len(kept) - 1 :]) > room
    assert len(asked) <= 10
    assert len(asked) == len(set(asked))
