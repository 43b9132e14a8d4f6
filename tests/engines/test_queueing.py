"""Who waits for GPUs: at which place, and until when."""

import uuid
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from engines import lifecycle, queueing, reclaiming
from engines.models import Engine, Gpu, GpuLease
from engines.placement import SLICES
from engines.queueing import Place, Waiting
from engines.reclaiming import Idle
from engines.states import State
from tests.engines.conftest import NOW

A, B, C = (uuid.UUID(int=number) for number in range(3))
HOURS = [NOW + timedelta(hours=hours) for hours in range(6)]


@pytest.mark.parametrize(
    ("waiting", "free_from", "places"),
    [
        ([], [NOW], {}),
        ([(A, 1)], [None], {A: Place(1, None)}),
        ([(A, 1)], [None, HOURS[2]], {A: Place(1, HOURS[2])}),
        ([(A, 2)], [HOURS[1], HOURS[3]], {A: Place(1, HOURS[3])}),
        ([(A, 1), (B, 1)], [HOURS[3], HOURS[1]], {A: Place(1, HOURS[1]), B: Place(2, HOURS[3])}),
        ([(A, 2), (B, 1)], [HOURS[1], HOURS[2], HOURS[3]], {A: Place(1, HOURS[2]), B: Place(2, HOURS[3])}),
        # Nobody overtakes: what A waits for, B waits for too.
        ([(A, 2), (B, 1)], [HOURS[1], None], {A: Place(1, None), B: Place(2, None)}),
        ([(A, 1), (B, 1), (C, 1)], [HOURS[1], None], {A: Place(1, HOURS[1]), B: Place(2, None), C: Place(3, None)}),
    ],
)
def test_when_ones_turn_comes(waiting, free_from, places):
    assert queueing.forecast([Waiting(pk, gpus, SLICES) for pk, gpus in waiting], whole(free_from)) == places


def whole(free_from):
    """GPUs that come free at these times, all of each at once."""
    return [[at] * SLICES for at in free_from]


@pytest.mark.parametrize(
    ("wanted", "units", "expected"),
    [
        ([6], [[None] * 13 + [NOW] * 7], [NOW]),
        ([6], [[None] * 14 + [NOW] * 6], [None]),  # a shared one keeps a slice free
        ([6, 6], [[None] * 7 + [NOW] * 13], [NOW, NOW]),
        ([6, 7], [[None] * 7 + [NOW] * 13], [NOW, None]),
        ([10], [[HOURS[2]] * 10 + [NOW] * 10], [HOURS[2]]),
        ([9, 1], [[HOURS[2]] * 10 + [NOW] * 10], [NOW, HOURS[2]]),
        ([20], [[NOW] * 10 + [HOURS[3]] * 10, [NOW] * 10 + [HOURS[2]] * 10], [HOURS[2]]),  # two halves are no whole one
        ([1, 1], [[NOW], [HOURS[1]]], [NOW, HOURS[1]]),  # slots of the CPU
    ],
)
def test_slices_of_different_gpus_are_no_sum(wanted, units, expected):
    waiting = [Waiting(uuid.UUID(int=number), 1, slices) for number, slices in enumerate(wanted)]
    assert [place.expected_at for place in queueing.forecast(waiting, units).values()] == expected


@given(
    st.lists(st.integers(1, 4), max_size=6),
    st.lists(st.none() | st.sampled_from(HOURS), max_size=8),
)
def test_nobody_is_promised_what_another_was(wanted, free_from):
    waiting = [(uuid.UUID(int=number), gpus) for number, gpus in enumerate(wanted)]
    places = queueing.forecast([Waiting(pk, gpus, SLICES) for pk, gpus in waiting], whole(free_from))
    assert [place.position for place in places.values()] == list(range(1, len(wanted) + 1))
    times = [place.expected_at for place in places.values()]
    known = [at for at in times if at is not None]
    assert known == sorted(known)
    assert times[len(known) :] == [None] * (len(times) - len(known))
    for index, at in enumerate(known):
        promised = sum(gpus for _, gpus in waiting[: index + 1])
        assert promised <= sum(free is not None and free <= at for free in free_from)


@given(st.lists(st.tuples(st.sampled_from(HOURS), st.integers(1, 4)), max_size=7), st.integers(-2, 12))
def test_no_more_give_way_than_must(engines, wanted):
    idle = [Idle(uuid.UUID(int=number), since) for number, (since, _) in enumerate(engines)]
    gpus = {uuid.UUID(int=number): gpus for number, (_, gpus) in enumerate(engines)}
    chosen = reclaiming.fewest(idle, lambda gone: sum(gpus[one] for one in gone) >= wanted)
    total = sum(gpus[one] for one in chosen)
    if wanted <= 0 or sum(gpus.values()) < wanted:
        assert chosen == []
        return
    assert total >= wanted
    assert all(total - gpus[one] < wanted for one in chosen)
    last = max(one.since for one in idle if one.engine_id in chosen)
    before = [one.engine_id for one in idle if one.since < last]
    assert sum(gpus[one] for one in before) < wanted, "those idle longer would have done"


def test_the_longest_idle_goes_first():
    idle = [Idle(A, HOURS[2]), Idle(B, HOURS[1]), Idle(C, HOURS[3])]
    assert reclaiming.fewest(idle, lambda gone: len(gone) >= 2) == [B, A]


@pytest.mark.django_db(transaction=True)
class TestRows:
    @pytest.fixture
    def held(self, engine_in):
        """held(number, **columns): an engine that is READY on the GPU of this number."""

        def make(number: int, **columns) -> Engine:
            gpu = Gpu.objects.create(uuid=f"GPU-{number}", index=number, name="Card", memory_bytes=1, seen_at=NOW)
            engine = engine_in(State.READY, device="cuda")
            Engine.objects.filter(pk=engine.pk).update(**columns)
            GpuLease.objects.create(gpu=gpu, engine=engine)
            engine.refresh_from_db()
            return engine

        return make

    def test_the_api_and_the_card_say_it(self, client_of, alice, held, engine_in):
        held(0, lease_ends_at=HOURS[2])
        held(1)
        first, second = (engine_in(State.QUEUED, device="cuda") for _ in range(2))
        told = {one["name"]: one["queue"] for one in client_of(alice).get("/api/v1/engines").json()["results"]}
        assert told[first.name]["position"] == 1
        assert told[first.name]["expected_at"] is not None
        assert told[second.name] == {"position": 2, "expected_at": None}
        assert [queue for name, queue in told.items() if name not in (first.name, second.name)] == [None, None]
        browser = Client()
        browser.force_login(alice)
        page = browser.get("/cards").content.decode()
        assert "number 1 in line, expected at" in page
        assert "number 2 in line ·" in page or "number 2 in line</p>" in page

    def test_without_gpus_or_without_a_line_there_is_nothing_to_say(self, engine_in, django_assert_num_queries):
        with django_assert_num_queries(0):
            assert (
                queueing.of([Engine(state=State.READY, device="cuda"), Engine(state=State.QUEUED, device="cpu")], NOW)
                == {}
            )
        assert queueing.of([engine_in(State.QUEUED, device="cuda")], NOW) == {}

    @pytest.mark.parametrize("desired", ["stop", "sleep"])
    def test_idle_ones_give_way_to_who_waits(self, held, engine_in, setting, desired):
        busy, kept, idle, longest = (held(number) for number in range(4))
        for engine, used_at, keep in (
            (busy, HOURS[5], None),
            (kept, NOW, HOURS[5] + timedelta(days=1)),
            (idle, HOURS[2], None),
            (longest, HOURS[1], None),
        ):
            engine.used_at, engine.keep_until = used_at, keep
        ready, now = [busy, kept, idle, longest], HOURS[5] + timedelta(minutes=1)
        assert reclaiming.chosen(ready, now) == [], "the settings do not say so"
        setting(reclaim_idle_minutes=30)
        assert reclaiming.chosen(ready, now) == [], "nobody waits"
        waiting = engine_in(State.QUEUED, device="cuda", tensor_parallel_size=2)
        assert reclaiming.chosen(ready, now) == [longest, idle]
        Engine.objects.filter(pk=longest.pk).update(desired=desired)
        ready.remove(longest)
        assert reclaiming.chosen(ready, now) == [idle], "one GPU is coming free already"
        Engine.objects.filter(pk=waiting.pk).update(tensor_parallel_size=3)
        assert reclaiming.chosen(ready, now) == [], "all together would not do"
        Engine.objects.filter(pk=waiting.pk).update(tensor_parallel_size=5)
        engine_in(State.QUEUED, device="cuda")
        assert reclaiming.chosen(ready, now) == [], (
            "one that can never come up holds up nobody, and one GPU is free soon"
        )

    def test_nobody_gives_way_to_a_download(self, held, engine_in, setting):
        """It could fail, or take hours; those that were stopped for it would have been so for nothing."""
        setting(reclaim_idle_minutes=30)
        idle = held(0, used_at=NOW)
        now = HOURS[5]
        waiting = engine_in(State.FETCHING, device="cuda")
        Engine.objects.filter(pk=waiting.pk).update(state_since=now)
        assert queueing.line(False, now)[0].downloads, "it has just begun, so others wait for it"
        assert reclaiming.chosen([idle], now) == []
        assert lifecycle.get_in_line(waiting, now)
        assert reclaiming.chosen([idle], now) == [idle]


def test_whose_turn_it_is_is_seen_behind_many_that_cannot_start_now(engine_in):
    many = [engine_in(device="cuda", tensor_parallel_size=4) for _ in range(queueing.HEAD + 2)]
    fits, after = (engine_in(device="cuda") for _ in range(2))
    assert queueing.turn(False, timezone.now(), 2) == [engine.pk for engine in (*many, fits)]
    assert queueing.turn(False, timezone.now(), 4) == [many[0].pk]
    assert queueing.turn(False, timezone.now(), 0) == [engine.pk for engine in (*many, fits, after)]
