"""Where there is no GPU, `cpu_slots` bounds what runs at once, as GPUs do elsewhere."""

from datetime import timedelta

import pytest

from engines import ending, launching, lifecycle, queueing, reclaiming, room, terminating
from engines.models import CpuLease, Engine, GpuLease
from engines.states import State
from tests.engines.conftest import NOW
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def two_slots(setting):
    setting(cpu_slots=2)


def slots(engine: Engine) -> list[int]:
    return sorted(engine.cpu_leases.values_list("slot", flat=True))


def test_without_the_setting_any_number_runs(fake, engine_in):
    engines = [engine_in() for _ in range(5)]
    for engine in engines:
        launching.launch(engine.pk)
    assert len(fake.containers) == 5
    assert not CpuLease.objects.exists()
    assert queueing.of(engines, NOW) == {}


def test_each_holds_as_many_as_its_parallel_size(fake, engine_in, two_slots):
    large, small = engine_in(tensor_parallel_size=2), engine_in()
    for engine in (large, small):
        launching.launch(engine.pk)
        engine.refresh_from_db()
    assert (slots(large), large.state) == ([0, 1], State.LOADING)
    assert (slots(small), small.state) == ([], State.QUEUED)
    assert small.detail == "waiting for 1 free slot (0 of 2 are free)"
    assert [event.message for event in large.events.all()][1] == "slot 0, slot 1"


@pytest.mark.parametrize("end", ["stop", "fail", "sleep"])
def test_they_are_free_again_once_nothing_of_it_runs(fake, engine_in, two_slots, end):
    first, second = engine_in(tensor_parallel_size=2), engine_in(tensor_parallel_size=2)
    launching.launch(first.pk)
    launching.launch(second.pk)
    first.refresh_from_db()
    if end == "fail":
        lifecycle.failed(first, NOW, "stalled", "It hung.")
    else:
        assert lifecycle.move(first, State.LOADING, State.READY, NOW)
        if end == "sleep":
            assert lifecycle.request_sleep(first, NOW, "x")
        else:
            terminating.request_terminate(first, first.owner)
        assert slots(first) == [0, 1], "it still runs"
        ending.stop(first.pk)
    launching.launch(second.pk)
    assert (slots(first), slots(second)) == ([], [0, 1])


def test_nobody_overtakes_and_gpus_are_another_line(fake, engine_in, two_slots):
    holder, large, small = engine_in(), engine_in(tensor_parallel_size=2), engine_in()
    never, elsewhere = engine_in(tensor_parallel_size=3), engine_in(State.QUEUED, device="cuda")
    for engine in (holder, large, small, never):
        launching.launch(engine.pk)
    waiting = [Engine.objects.get(pk=engine.pk) for engine in (large, small, never, elsewhere)]
    assert [engine.detail for engine in waiting[:3]] == [
        "waiting for 2 free slots (1 of 2 are free)",
        "waiting for slots, behind engines that come first",
        "waiting for slots, behind engines that come first",
    ]
    places = queueing.of(waiting, NOW)
    assert [places.get(engine.pk) for engine in (large, small, never, elsewhere)] == [(1, None), (2, None), None, None]
    Engine.objects.filter(pk=holder.pk).update(lease_ends_at=NOW + timedelta(hours=1))
    assert queueing.of(waiting, NOW)[large.pk].expected_at == NOW + timedelta(hours=1)


def test_after_there_are_fewer_nobody_comes_until_enough_have_ended(fake, engine_in, setting):
    setting(cpu_slots=3)
    running = [engine_in() for _ in range(3)]
    for engine in running:
        launching.launch(engine.pk)
    setting(cpu_slots=2)
    late = engine_in()
    for left in (2, 1):
        launching.launch(late.pk)
        assert slots(late) == []
        assert room.of(on_cpu=True).free == 0
        lifecycle.failed(Engine.objects.get(pk=running.pop(0).pk), NOW, "stalled", "It hung.")
        assert CpuLease.objects.count() == left
    launching.launch(late.pk)
    assert slots(late) == [0]


def test_a_slot_is_never_given_twice(engine_in, two_slots):
    first, second = engine_in(), engine_in()
    assert lifecycle.place(first, [], NOW, [0])
    assert not lifecycle.place(second, [], NOW, [0, 1])
    second.refresh_from_db()
    assert (second.state, CpuLease.objects.count()) == (State.QUEUED, 1)


def test_fifty_at_once_never_hold_more_than_two_and_follow_in_order(fake, engine_in, two_slots):
    engines = [engine_in() for _ in range(50)]
    most_held, came_up = 0, []

    def started(spec):
        nonlocal most_held
        most_held = max(most_held, CpuLease.objects.count())

    fake.before_start = started
    while len(came_up) < len(engines):
        waiting = [engine for engine in engines if engine.pk not in came_up]
        at_once(*[lambda engine=engine: launching.launch(engine.pk) for engine in waiting[:8]])
        for engine in waiting:
            launching.launch(engine.pk)
        up = set(Engine.objects.filter(state=State.LOADING).values_list("pk", flat=True))
        assert len(up) == 2
        assert up == {engine.pk for engine in waiting[:2]}
        came_up += up
        for engine in Engine.objects.filter(pk__in=up):
            lifecycle.failed(engine, NOW, "stalled", "It hung.")
    assert most_held == 2
    assert not GpuLease.objects.exists()


def test_idle_ones_give_way(fake, engine_in, two_slots, setting):
    setting(reclaim_idle_minutes=30)
    idle = engine_in(tensor_parallel_size=2)
    launching.launch(idle.pk)
    Engine.objects.filter(pk=idle.pk).update(state=State.READY, used_at=NOW)
    ready, later = [Engine.objects.get(pk=idle.pk)], NOW + timedelta(hours=1)
    assert reclaiming.chosen(ready, later) == []
    engine_in()
    assert reclaiming.chosen(ready, later) == ready


def test_the_node_says_how_many_are_free(fake, engine_in, client_of, alice, setting):
    def told():
        return client_of(alice).get("/api/v1/nodes").json()["results"][0]["cpu_slots"]

    assert told() is None
    setting(cpu_slots=2)
    launching.launch(engine_in().pk)
    assert told() == {"count": 2, "free": 1}
    refused = client_of(alice).post("/api/v1/engines", {"model": "a/b", "tensor_parallel_size": 3}, format="json")
    assert refused.json() == {"tensor_parallel_size": ["At most 2 where engines run without GPUs."]}
