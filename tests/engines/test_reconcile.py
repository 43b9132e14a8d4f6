"""Rows against what really runs: what is unfinished is finished, with every hint lost."""

import threading

import pytest
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from engines import checking, gpus, health, lifecycle, placing, reconcile, strays
from engines.errors import LauncherError
from engines.gpus import Found
from engines.launchers.base import LaunchSpec
from engines.models import Engine, Gpu
from engines.states import TANGIBLE, State
from tests.engines.conftest import NOW, join_apart
from tests.fakes.launchers import raising
from tests.threads import at_once
from tests.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_restarts")]


@pytest.fixture(autouse=True)
def looks_are_due(monkeypatch):
    monkeypatch.setattr(strays, "_looked_at", float("-inf"))
    monkeypatch.setattr(strays, "_first_seen", {})
    monkeypatch.setattr(strays, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(strays, "BETWEEN_LOOKS_SECONDS", 0.0)


def work(rounds=1):
    for _ in range(rounds):
        reconcile.reconcile(timezone.now())
        join_apart()


def states():
    return sorted(Engine.objects.values_list("name", "state"))


def test_all_that_is_unfinished_goes_on(fake, engine_in, running):
    queued, placed, starting = engine_in(State.QUEUED), engine_in(State.PLACED), engine_in(State.STARTING)
    stopping, dead = running(State.STOPPING), running(State.READY)
    fake.die(dead.container_name, "CUDA out of memory")
    done = engine_in(State.STOPPED)
    work()
    found = dict(states())
    assert {found[engine.name] for engine in (queued, placed, starting)} == {State.LOADING}
    assert (found[stopping.name], found[dead.name], found[done.name]) == (State.STOPPED, State.FAILED, State.STOPPED)


def test_two_at_once_do_nothing_twice(fake, engine_in, running):
    for _ in range(3):
        engine_in(State.QUEUED)
        engine = running(State.READY)
        lifecycle.request_terminate(engine, NOW, "alice")
    made = fake.started
    at_once(*[lambda: reconcile.reconcile(timezone.now())] * 3)
    join_apart()
    work()
    assert fake.started == made + 3
    assert sorted(Engine.objects.values_list("state", flat=True)) == ["LOADING"] * 3 + ["STOPPED"] * 3
    for engine in Engine.objects.all():
        ways = [event.new_state for event in engine.events.all()]
        assert len(ways) == len(set(ways))


def test_the_oldest_gets_its_gpu_first(fake, engine_in):
    Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=NOW)
    engines = [engine_in(device="cuda") for _ in range(3)]
    work()
    assert [state for _, state in states()] == [State.LOADING, State.QUEUED, State.QUEUED]
    assert states()[0][0] == engines[0].name


def test_where_all_is_well_200_engines_cost_a_few_queries(running, monkeypatch):
    engines = [running(state) for state in [State.READY] * 195 + [State.UNHEALTHY] * 5]
    monkeypatch.setattr(health, "is_healthy", lambda host, port: True)
    monkeypatch.setattr(health, "prove", lambda address: "no answer")
    asked, real = [], CursorWrapper.execute
    monkeypatch.setattr(CursorWrapper, "execute", lambda *given: asked.append(given[1]) or real(*given))
    reconcile.reconcile(timezone.now())
    assert len([query for query in asked if query.startswith(("SELECT", "UPDATE", "INSERT"))]) <= 10, asked
    assert Engine.objects.filter(state=State.READY).count() == len(engines) - 5


class TestWhereManyWait:
    @pytest.fixture
    def waiting(self, fake, engine_in):
        """200 that wait for one GPU, which the first of them got; all have been told."""
        Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=NOW)
        engines = [engine_in(device="cuda") for _ in range(200)]
        Engine.objects.exclude(pk__in=[engine.pk for engine in engines[:3]]).update(detail=placing.BEHIND[False])
        work()
        assert [engine.state for engine in Engine.objects.order_by("created_at")[:2]] == ["LOADING", "QUEUED"]
        return engines

    @pytest.fixture
    def asked(self, monkeypatch, asked):
        """The queries so far, without looks at those that run."""
        monkeypatch.setattr(checking, "look_at", lambda *_, **__: None)
        monkeypatch.setattr(strays, "_looked_at", float("inf"))
        return asked

    def test_a_round_costs_a_few_queries(self, waiting, asked):
        asked.clear()
        work()
        assert len(asked) <= 10, asked

    def test_nor_does_the_first_after_many_starts_at_once(self, fake, engine_in, asked):
        for index in range(2):
            Gpu.objects.create(uuid=f"GPU-{index}", index=index, name="Card", memory_bytes=1, seen_at=NOW)
        engines = [engine_in(device="cuda") for _ in range(199)]
        asked.clear()
        work()
        assert len(asked) <= 80, "two starts, and all others told in one"
        found = list(Engine.objects.order_by("created_at").values_list("pk", "state", "detail"))
        assert [(pk, state) for pk, state, _ in found[:2]] == [(engine.pk, State.LOADING) for engine in engines[:2]]
        assert {(state, detail) for _, state, detail in found[3:]} == {(State.QUEUED, placing.BEHIND[False])}

    def test_who_has_something_to_fetch_first_is_not_kept_from_it(self, waiting, fake, engine_in, state_of):
        go_on = threading.Event()
        fake.before_prepare = lambda progress: go_on.wait(20)
        there, lacking = (engine_in(device="cuda", launcher="docker", image=image) for image in ("a:1", "b:1"))
        fake.images.add("a:1")
        reconcile.reconcile(timezone.now())
        try:
            assert (state_of(there), state_of(lacking)) == (State.QUEUED, State.PULLING)
            assert Engine.objects.get(pk=there.pk).detail == placing.BEHIND[False]
        finally:
            go_on.set()
            join_apart()

    def test_what_comes_free_is_given_in_one_round_and_in_their_order(self, waiting):
        for number in range(1, 4):
            Gpu.objects.create(uuid=f"GPU-{number}", index=number, name="Card", memory_bytes=1, seen_at=NOW)
        work()
        placed = Engine.objects.exclude(state=State.QUEUED).values_list("pk", flat=True)
        assert set(placed) == {engine.pk for engine in waiting[:4]}

    def test_one_that_others_do_not_keep_waiting_any_more_is_seen_to(self, waiting):
        """The next one needs more GPUs than programs that are no engines leave now."""
        first, large, after = waiting[:3]
        Gpu.objects.create(uuid="GPU-1", index=1, name="Card", memory_bytes=1, seen_at=NOW, foreign_memory_bytes=2**40)
        Engine.objects.filter(pk=large.pk).update(tensor_parallel_size=2, detail=placing.BEHIND[False])
        work()
        lifecycle.request_terminate(first, NOW, "alice")
        work(2)
        after.refresh_from_db()
        large.refresh_from_db()
        assert (large.state, after.state) == (State.QUEUED, State.LOADING)


def test_an_engine_without_an_owner_is_ended(fake, running, alice, state_of):
    engine = running(State.READY)
    alice.delete()
    work(2)
    assert state_of(engine) == State.STOPPED
    assert fake.containers == {}


def test_one_engines_trouble_is_no_others(fake, running, engine_in, state_of, caplog):
    engine = running(State.STOPPING)
    running(State.READY)
    fake.poll = raising(ZeroDivisionError())  # a launcher that breaks its own rules
    queued = engine_in()
    work()
    assert (state_of(engine), state_of(queued)) == (State.STOPPED, State.LOADING)
    assert "could not be reconciled" in caplog.text


def test_a_long_pull_holds_up_nobody(fake, engine_in, running, state_of):
    pulling = engine_in(launcher="docker")
    go_on = threading.Event()
    fake.before_prepare = lambda progress: go_on.wait(20)
    engine = running(State.STOPPING)
    reconcile.reconcile(timezone.now())
    reconcile.reconcile(timezone.now())
    try:
        wait_until(lambda: state_of(engine) == State.STOPPED)
        assert state_of(pulling) == State.PULLING
        assert fake.calls.count("prepare") == 1
    finally:
        go_on.set()
        join_apart()
    assert state_of(pulling) == State.LOADING


class TestStrays:
    def spec(self, engine_id="0" * 32, generation=1, name="vllm-portal-000000000000-1"):
        return LaunchSpec(name=name, portal_id="p", engine_id=engine_id, generation=generation, argv=["m"])

    def test_what_no_engine_stands_for_is_removed_at_the_second_look(self, fake):
        fake.start(self.spec("9e107d9d-372b-4c1d-8f4a-3e2f5d1c0b07"))
        work()
        assert fake.containers
        work()
        assert not fake.containers

    def test_an_id_that_is_none_is_a_stray_too(self, fake):
        fake.start(self.spec("no id"))
        work(2)
        assert not fake.containers

    @pytest.mark.parametrize("state", [State.ASLEEP, State.STOPPED, State.FAILED])
    def test_what_an_ended_engine_left_is_removed(self, fake, running, state):
        running(state)
        work(2)
        assert not fake.containers

    @pytest.mark.parametrize("state", sorted(TANGIBLE - {State.STOPPING}))
    def test_what_an_engine_stands_for_stays(self, fake, running, state):
        engine = running(state)
        work(3)
        assert engine.container_name in fake.containers

    def test_an_earlier_generation_is_a_stray(self, fake, running):
        engine = running(State.LOADING)
        Engine.objects.filter(pk=engine.pk).update(generation=2)
        fake.start(self.spec(str(engine.pk), 2, "second"))
        seen = strays.strays("fake")
        assert [stray.generation for stray in seen] == [1]

    def test_what_was_gone_in_between_is_seen_anew(self, fake):
        fake.start(self.spec())
        seen = strays.strays("fake")
        assert strays.twice_seen("fake", seen) == []
        assert strays.twice_seen("fake", []) == []
        assert strays.twice_seen("fake", seen) == []
        assert strays.twice_seen("fake", seen) == seen

    def test_a_look_too_soon_removes_nothing(self, fake, monkeypatch):
        monkeypatch.setattr(strays, "BETWEEN_LOOKS_SECONDS", 60.0)
        fake.start(self.spec())
        work(3)
        assert fake.containers

    def test_a_launcher_in_trouble_is_left_for_later(self, fake, monkeypatch):
        fake.start(self.spec())
        fake.before_stop = raising(LauncherError("no daemon"))
        work(2)
        assert fake.containers


def test_the_gpus_are_looked_at_every_half_minute(monkeypatch, db):
    looks = []
    monkeypatch.setattr(reconcile, "_gpus_looked_at", float("-inf"))
    monkeypatch.setattr(gpus, "look", lambda: looks.append(1) or [Found("GPU-0", 0, "Card", 1)])
    for _ in range(3):
        reconcile.refresh_gpus(NOW)
    assert (len(looks), Gpu.objects.count()) == (1, 1)


class TestStopAll:
    def test_every_engine_is_ended(self, fake, running, engine_in):
        for state in (State.LOADING, State.READY, State.UNHEALTHY, State.STOPPING):
            running(state)
        engine_in(State.QUEUED)
        assert reconcile.stop_all(timeout_s=20)
        assert {state for _, state in states()} == {State.STOPPED}
        assert fake.containers == {}

    def test_what_cannot_be_ended_is_given_up_in_time(self, fake, running):
        running(State.READY)
        fake.before_stop = raising(LauncherError("no daemon"))
        assert not reconcile.stop_all(timeout_s=0.3)
        join_apart()

    def test_nothing_to_do_takes_no_time(self, db):
        assert reconcile.stop_all(timeout_s=0)
