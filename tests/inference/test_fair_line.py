"""Who is next where an engine is full."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.fair_line import FairLine, Place

ALICE, BOB, CAROL, DAVE = 1, 2, 3, 4


class Engine:
    """A line, and who has gone in which order."""

    def __init__(self, most: int) -> None:
        self.line = FairLine(most)
        self.went: list[Place] = []

    def ask(self, user: int, tokens: int = 100, batch: bool = False, weight: float = 1.0) -> Place:
        place = Place(user, tokens, batch, weight, lambda: self.went.append(place))
        if self.line.enter(place):
            self.went.append(place)
        return place

    def ends(self, number: int = 1) -> None:
        """So many of those under way end, the oldest first."""
        for place in [one for one in self.went if not one.left][:number]:
            self.line.leave(place)

    def users(self) -> list[int]:
        return [place.user_id for place in self.went]


def test_while_there_is_room_everybody_goes():
    engine = Engine(8)
    for _ in range(7):
        assert engine.ask(ALICE).going


def test_who_has_nothing_under_way_waits_for_nobody_of_a_user_with_much():
    engine = Engine(8)
    for _ in range(500):
        engine.ask(ALICE)
    assert engine.line.in_flight == 7
    assert engine.ask(BOB).going


def test_where_all_is_full_who_had_least_is_next():
    engine = Engine(4)
    for _ in range(500):
        engine.ask(ALICE)
    engine.ends()
    place = engine.ask(BOB)
    engine.ends()
    assert place.going
    assert engine.line.waiting == 495


def test_tokens_count_and_not_requests():
    engine = Engine(1)
    engine.ask(CAROL)
    for _ in range(10):
        engine.ask(ALICE, tokens=1000)
    for _ in range(100):
        engine.ask(BOB, tokens=100)
    engine.ends()
    for _ in range(54):
        engine.ends()
    spent = {user: sum(one.tokens for one in engine.went if one.user_id == user) for user in (ALICE, BOB)}
    assert abs(spent[ALICE] - spent[BOB]) <= 1000


def test_a_weight_of_two_gets_twice_the_tokens():
    engine = Engine(1)
    engine.ask(CAROL)
    for _ in range(100):
        engine.ask(ALICE, weight=2.0)
        engine.ask(BOB)
    for _ in range(60):
        engine.ends()
    users = engine.users()
    assert abs(users.count(ALICE) - 2 * users.count(BOB)) <= 2


def test_of_two_who_had_as_much_the_first_is_first():
    engine = Engine(1)
    engine.ask(CAROL)
    engine.ask(BOB)
    engine.ask(ALICE)
    engine.ends(1)
    assert engine.users() == [CAROL, BOB]


def test_who_asks_for_more_is_behind_who_had_nothing_yet():
    engine = Engine(1)
    engine.ask(CAROL)
    for _ in range(5):
        engine.ask(BOB)
    engine.ends()
    engine.ask(BOB)
    engine.ask(ALICE)
    engine.ends()
    assert engine.users() == [CAROL, BOB, ALICE]


def test_who_comes_later_has_no_claim_to_what_others_were_given_before():
    engine = Engine(1)
    engine.ask(CAROL)
    for _ in range(10):
        engine.ask(BOB)
    for _ in range(5):
        engine.ends()
    for _ in range(4):
        engine.ask(DAVE)
    for _ in range(8):
        engine.ends()
    assert sorted(engine.users()[-8:]) == [BOB] * 4 + [DAVE] * 4
    assert engine.users()[-4:].count(DAVE) == 2


def test_what_was_given_to_batch_turns_no_clock_back():
    engine = Engine(1)
    engine.ask(CAROL)
    batch = engine.ask(ALICE, batch=True)
    for _ in range(3):
        engine.ask(BOB)
    engine.ends(1)
    for _ in range(3):
        engine.ends()
    assert batch.going
    engine.ask(BOB)
    for _ in range(3):
        engine.ask(DAVE)
    for _ in range(3):
        engine.ends()
    assert engine.users()[-3:] == [DAVE, BOB, DAVE]


def test_who_had_more_than_those_who_wait_does_not_pass_them_into_the_room_that_is_kept_free():
    engine = Engine(8)
    for _ in range(10):
        engine.ask(ALICE)
    much = engine.ask(BOB, tokens=10_000)
    assert much.going
    engine.line.leave(much)
    again = engine.ask(BOB)
    assert (engine.line.in_flight, again.going) == (7, False)
    engine.ends(2)
    assert not again.going
    engine.ends(1)
    assert again.going


def test_room_that_is_kept_free_is_not_for_batch():
    engine = Engine(8)
    for _ in range(7):
        engine.ask(ALICE)
    assert not engine.ask(BOB, batch=True).going
    assert engine.ask(BOB).going


def test_whose_requests_have_ended_has_nothing_under_way():
    engine = Engine(8)
    bobs = engine.ask(BOB)
    for _ in range(20):
        engine.ask(ALICE)
    engine.line.leave(bobs)
    assert engine.line.in_flight == 7
    assert engine.ask(BOB).going


def test_who_waits_behind_one_that_gives_up_need_not_wait_for_an_end():
    engine = Engine(8)
    for _ in range(7):
        engine.ask(ALICE)
    much = engine.ask(BOB, tokens=10_000)
    alices = engine.ask(ALICE)
    engine.line.leave(much)
    bobs = engine.ask(BOB)
    assert not bobs.going
    engine.line.leave(alices)
    assert bobs.going


def test_an_idle_line_knows_nobody_any_more():
    engine = Engine(1)
    for _ in range(2):
        engine.ask(CAROL)
        engine.ask(BOB, tokens=10_000)
        engine.ask(ALICE)
        for _ in range(3):
            engine.ends()
        assert engine.users()[-3:] == [CAROL, BOB, ALICE]
        assert not engine.line._finish
        assert not engine.line._of_user


def test_those_under_way_and_those_who_wait_make_its_length():
    engine = Engine(2)
    for _ in range(5):
        engine.ask(ALICE)
    assert engine.line.length == 5


class Clock:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def test_whose_turn_comes_or_who_leaves_waits_for_no_time_any_more():
    engine = Engine(1)
    engine.ask(CAROL)
    goes, leaves, waits = (engine.ask(ALICE) for _ in range(3))
    for place in (goes, leaves, waits):
        place.timer = Clock()
    engine.line.leave(leaves)
    engine.ends()
    assert [place.timer.cancelled for place in (goes, leaves, waits)] == [True, True, False]


def test_batch_goes_after_all_that_is_interactive():
    engine = Engine(1)
    engine.ask(CAROL)
    batch = engine.ask(ALICE, batch=True)
    for _ in range(3):
        engine.ask(BOB, tokens=10_000)
    for _ in range(3):
        engine.ends()
        assert not batch.going
    engine.ends()
    assert batch.going


def test_who_gives_up_waiting_is_passed_over():
    engine = Engine(1)
    engine.ask(CAROL)
    first, second = engine.ask(ALICE), engine.ask(ALICE)
    engine.line.leave(first)
    engine.line.leave(first)
    assert engine.line.waiting == 1
    engine.ends()
    assert (first.going, second.going) == (False, True)


@pytest.mark.parametrize("most", [1, 2, 8, 64])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, derandomize=True, deadline=None)
def test_nobody_is_lost_and_no_more_go_than_there_is_room(most, seed):
    luck = random.Random(seed)
    engine = Engine(most)
    asked = []
    for _ in range(200):
        if luck.random() < 0.6:
            asked.append(engine.ask(luck.randint(1, 4), luck.randint(1, 999), luck.random() < 0.2, luck.choice([1, 3])))
        elif asked:
            engine.line.leave(luck.choice(asked))
        assert engine.line.in_flight == sum(one.going and not one.left for one in asked) <= most
        assert engine.line.waiting == sum(not one.going and not one.left for one in asked)
        assert engine.line.in_flight or not engine.line.waiting
    while engine.line.in_flight:
        engine.ends()
    assert all(one.left for one in asked)
    assert engine.line.waiting == 0


def test_thousands_that_end_at_once_do_so_one_after_the_other():
    line = FairLine(1)
    first = Place(ALICE, 1, False, 1.0, lambda: None)
    assert line.enter(first)
    for _ in range(5000):
        place = Place(ALICE, 1, False, 1.0, lambda: None)
        place.go = lambda place=place: line.leave(place)
        assert not line.enter(place)
    line.leave(first)
    assert (line.in_flight, line.waiting) == (0, 0)
