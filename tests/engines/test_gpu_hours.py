"""How long GPUs were held, and for how much of that nobody asked."""

from datetime import UTC, datetime, timedelta

import pytest

from engines.gpu_hours import idle_s, measured
from engines.models import Engine

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
DAY = NOON - timedelta(hours=12), NOON + timedelta(hours=12)


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def engine(gpus: int = 1) -> Engine:
    return Engine(name="e", model="m", tensor_parallel_size=gpus)


LIFE = [(at(-2), "QUEUED"), (at(-1), "PLACED"), (at(-0.5), "LOADING"), (at(0), "READY"), (at(2.5), "STOPPING")]
ENDED = [*LIFE, (at(3), "STOPPED")]


@pytest.mark.parametrize("gpus", [1, 4])
def test_held_is_from_placed_to_the_end_for_each_gpu(gpus):
    assert measured(engine(gpus), ENDED, DAY).held_s == 4 * 3600 * gpus


def test_what_still_runs_counts_until_now():
    assert measured(engine(), LIFE[:4], (at(-12), at(1))).held_s == 2 * 3600


def test_only_the_period_counts():
    assert measured(engine(), ENDED, (at(1), at(2))).held_s == 3600
    assert measured(engine(), ENDED, (at(5), at(6))).held_s == 0


def test_an_engine_that_never_got_a_gpu_held_none():
    assert measured(engine(), [(at(0), "QUEUED"), (at(1), "FAILED")], DAY).held_s == 0
    assert measured(engine(), [], DAY).held_s == 0


def test_a_download_before_the_place_holds_none_and_one_after_it_does():
    before = [(at(-9), "QUEUED"), (at(-8), "FETCHING"), (at(-2), "QUEUED"), *LIFE[1:], (at(3), "STOPPED")]
    assert measured(engine(), before, DAY).held_s == 4 * 3600
    after = [(at(-2), "PLACED"), (at(-1), "FETCHING"), (at(3), "STOPPED")]
    assert measured(engine(), after, DAY).held_s == 5 * 3600


def test_of_a_part_of_a_gpu_a_part_is_held_and_idle():
    shares = Engine(name="e", model="m", gpu_memory_utilization=0.5)
    one = measured(shares, [(at(0), "PLACED"), (at(0), "READY"), (at(2), "STOPPED")], DAY)
    assert (one.held_s, idle_s(one, [])) == (3600, 3600)


def test_unhealthy_is_held_and_not_idle():
    one = measured(engine(), [(at(0), "READY"), (at(1), "UNHEALTHY"), (at(2), "FAILED")], DAY)
    assert (one.held_s, idle_s(one, [])) == (2 * 3600, 3600)


@pytest.mark.parametrize(
    ("busy", "idle_hours"),
    [([], 2.5), ([at(0)], 1.5), ([at(2)], 2.0), ([at(0), at(1), at(2)], 0), ([at(-1), at(3)], 2.5)],
)
def test_idle_is_ready_without_the_hours_in_which_somebody_asked(busy, idle_hours):
    one = measured(engine(2), ENDED, DAY)
    assert idle_s(one, busy) == idle_hours * 3600 * 2
