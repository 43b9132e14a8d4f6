"""Which of several engines of one name a request goes to."""

import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.replicas import CAPACITY, choose, rank
from tests.thorough import examples

ENGINES = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(20)]
KEYS = [b"key %d" % number for number in range(2000)]

some_engines = st.lists(st.uuids().map(str), min_size=2, max_size=20, unique=True)
some_key = st.binary(min_size=1, max_size=64)
a_load = st.integers(0, 10**7)


def at_rest(engines: list[str], key: bytes) -> str:
    return engines[choose(engines, [0] * len(engines), key, 1)]


@given(some_engines, some_key, st.data())
@examples(200)
def test_an_engine_that_goes_moves_its_own_keys_and_no_others(engines, key, data):
    gone = data.draw(st.sampled_from(engines))
    left = [engine for engine in engines if engine != gone]
    if at_rest(engines, key) != gone:
        assert at_rest(left, key) == at_rest(engines, key)
    # One that comes is one that goes, looked at from behind: a key moves to it or stays.
    assert at_rest(engines, key) in (gone, at_rest(left, key))


def test_keys_are_spread_evenly():
    """Of 2,000 keys over 10 engines each gets 200; the standard deviation is 13."""
    counts = Counter(at_rest(ENGINES[:10], key) for key in KEYS)
    assert all(150 < counts[engine] < 250 for engine in ENGINES[:10])


def test_the_keys_of_an_engine_that_goes_are_spread_over_all_others():
    engines, gone = ENGINES[:5], ENGINES[0]
    orphans = [key for key in KEYS if at_rest(engines, key) == gone]
    counts = Counter(at_rest(engines[1:], key) for key in orphans)
    assert all(counts[engine] > len(orphans) / 8 for engine in engines[1:])


@given(some_engines, some_key, st.data(), st.integers(1, 10**6))
@examples(200)
def test_no_engine_is_given_more_than_its_bound(engines, key, data, tokens):
    loads = [data.draw(a_load) for _ in engines]
    index = choose(engines, loads, key, tokens)
    assert loads[index] < CAPACITY * (sum(loads) + tokens) / len(engines)


@given(some_engines, some_key, st.data(), st.integers(1, 10**6))
@examples(200)
def test_of_those_within_the_bound_it_is_the_first_in_the_keys_order(engines, key, data, tokens):
    loads = [data.draw(a_load) for _ in engines]
    bound = CAPACITY * (sum(loads) + tokens) / len(engines)
    order = sorted(range(len(engines)), key=lambda index: rank(engines[index], key), reverse=True)
    assert choose(engines, loads, key, tokens) == next(index for index in order if loads[index] < bound)


@given(some_engines, st.data())
@examples(100)
def test_without_a_key_it_is_the_least_loaded(engines, data):
    loads = [data.draw(a_load) for _ in engines]
    assert loads[choose(engines, loads, b"", 1)] == min(loads)


@given(some_engines, some_key, st.data(), st.integers(1, 10**6), st.randoms())
@examples(100)
def test_the_order_in_which_engines_are_known_does_not_matter(engines, key, data, tokens, chance):
    loads = {engine: data.draw(a_load) for engine in engines}
    shuffled = chance.sample(engines, len(engines))
    first, second = (known[choose(known, [loads[e] for e in known], key, tokens)] for known in (engines, shuffled))
    assert first == second


def test_every_process_chooses_the_same():
    """Python's own hash of a text is another one in each."""
    program = (
        "from tests.inference.test_replicas import ENGINES, KEYS, at_rest\n"
        "print(*(ENGINES.index(at_rest(ENGINES, key)) for key in KEYS[:200]))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        )
        .stdout.split()[0:200]
        .__str__()
        for seed in ("1", "2")
    }
    assert told == {str([str(ENGINES.index(at_rest(ENGINES, key))) for key in KEYS[:200]])}


@pytest.mark.parametrize("engines", [2, 3, 8])
def test_with_requests_that_come_and_go_loads_stay_within_the_bound_and_most_conversations_where_they_were(engines):
    """300 conversations, each request of another size, 16 an engine under way."""
    chance = random.Random(7)
    known, loads = ENGINES[:engines], [0] * engines
    under_way: list[tuple[int, int]] = []
    last: dict[bytes, int] = {}
    stayed = came_back = 0
    for _ in range(5000):
        key = chance.choice(KEYS[:300])
        tokens = chance.randrange(100, 2000)
        index = choose(known, loads, key, tokens)
        loads[index] += tokens
        assert loads[index] < CAPACITY * sum(loads) / engines + tokens
        came_back += key in last
        stayed += last.get(key) == index
        last[key] = index
        under_way.append((index, tokens))
        if len(under_way) > 16 * engines:
            index, tokens = under_way.pop(chance.randrange(len(under_way)))
            loads[index] -= tokens
    assert stayed / came_back > 0.75
