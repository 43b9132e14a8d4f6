"""An engine that does not wake from vLLM's sleep is ended and started afresh, in its place and for whoever waits."""

from datetime import timedelta

import pytest
from django.utils import timezone

from engines import ending, launching, lifecycle, reconcile, sleeping, starts, waking
from engines.models import Engine, Gpu, GpuLease, GpuSlice
from engines.states import Desired, State
from tests.engines.conftest import NOW, join_apart
from tests.fakes.launchers import raising
from tests.waiting import wait_until
from vllm_portal.errors import OperatorError

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_wait")]
MINUTE = timedelta(minutes=1)


@pytest.fixture
def held():
    """held(engine): a GPU, a quarter of which is the engine's."""

    def hold(engine, slices=5):
        gpu = Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=NOW)
        lease = GpuLease.objects.create(gpu=gpu, engine=engine, slices=slices)
        GpuSlice.objects.bulk_create(GpuSlice(gpu=gpu, number=number, lease=lease) for number in range(slices))
        return gpu

    return hold


def reconciled(engine):
    reconcile.reconcile(timezone.now())
    join_apart()
    engine.refresh_from_db()
    return engine.state


def why(engine):
    return engine.events.get(old_state=State.WAKING, new_state=State.STOPPING).message


class TestWhy:
    def test_it_refuses_three_times(self, sleeper):
        engine, _ = sleeper(State.SLEEPING, 1, "--simulate-sleep-failure", "wake")
        sleeping.go_on(engine.pk)
        assert waking.wake(engine, "alice")
        for missed in (1, 2):
            sleeping.go_on(engine.pk)
            engine.refresh_from_db()
            assert (engine.state, engine.missed_checks) == (State.WAKING, missed)
        sleeping.go_on(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.desired, engine.cause_code) == (State.STOPPING, Desired.RUN, "")
        assert why(engine) == (
            "is started afresh: it did not wake from vLLM's sleep 3 times: /wake_up was answered with 500"
        )

    def test_health_checks_that_it_missed_asleep_are_not_counted(self, engine_in):
        engine = engine_in(State.SLEEPING, missed_checks=2)
        assert waking.wake(engine, "alice")
        engine.refresh_from_db()
        assert engine.missed_checks == 0

    def test_it_takes_too_long(self, running, setting):
        setting(load_stall_seconds=600)
        engine = running(State.WAKING, deadline_at=NOW)
        lifecycle.progress(engine, NOW, "its weights come back")
        sleeping.watch(engine, NOW + MINUTE)
        engine.refresh_from_db()
        assert (engine.state, engine.desired) == (State.STOPPING, Desired.RUN)
        assert "within 600 s. Last: its weights come back." in why(engine)

    def test_it_dies_of_it(self, running, fake):
        engine = running(State.WAKING)
        fake.die(engine.container_name, "", exit_code=137, oom_killed=True)
        assert reconciled(engine) == State.STOPPING
        assert (engine.desired, engine.cause_code) == (Desired.RUN, "")
        assert "memory" in why(engine)

    def test_one_that_died_asleep_starts_when_it_is_asked(self, running, fake):
        engine = running(State.SLEEPING, slept_at=NOW)
        fake.die(engine.container_name, "", exit_code=137, oom_killed=True)
        reconciled(engine)
        assert reconciled(engine) == State.ASLEEP
        assert (engine.cause_code, engine.advice) == ("out_of_memory", "The next request starts it afresh.")
        assert engine.events.get(new_state=State.STOPPING).message.startswith("died while it slept: ")
        assert fake.containers == {}
        assert waking.wake(engine, "alice")
        assert (engine.state, engine.generation, engine.cause_code) == (State.QUEUED, 2, "")

    def test_nobody_is_told_that_it_failed(self, running, fake):
        engine = running(State.WAKING)
        assert ending.start_afresh(engine, NOW, "it is tired")
        assert waking.see(engine.pk, "alice") == (False, "is started afresh", "")
        assert list(Engine.objects.wakeable()) == [engine], "requests for it are held"
        ending.stop(engine.pk)
        assert list(Engine.objects.wakeable()) == [engine]
        assert waking.see(engine.pk, "alice").told == "placed"


class TestItsPlace:
    def test_it_is_kept_and_what_ran_is_gone_before(self, running, fake, held):
        engine = running(State.WAKING, device="cuda", lease_hours=2)
        gpu = held(engine)
        Engine.objects.filter(pk=engine.pk).update(lease_ends_at=NOW)
        old = engine.container_name
        assert ending.start_afresh(engine, NOW, "it is tired")
        other = Engine.objects.get(pk=engine.pk)
        assert GpuLease.objects.get().gpu == gpu
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert old not in fake.containers
        assert (engine.state, engine.generation, engine.port, engine.lease_ends_at) == (State.PLACED, 2, None, NOW)
        assert GpuLease.objects.get().gpu == gpu
        assert not lifecycle.start_afresh(other, NOW), "once"

    def test_what_cannot_be_ended_keeps_it_and_is_not_doubled(self, running, fake):
        engine = running(State.WAKING)
        assert ending.start_afresh(engine, NOW, "it is tired")
        fake.before_stop = raising(OperatorError("the daemon is away"))
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.generation, len(fake.containers)) == (State.STOPPING, 1, 1)

    def test_it_waits_for_another_that_measures_the_memory(self, running, engine_in, held):
        engine = running(State.WAKING, device="cuda")
        gpu = held(engine)
        other = engine_in(State.LOADING)
        GpuLease.objects.create(gpu=gpu, engine=other, slices=5)
        assert ending.start_afresh(engine, NOW, "it is tired")
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert engine.state == State.STOPPING
        assert lifecycle.move(other, State.LOADING, State.READY, NOW)
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert engine.state == State.PLACED

    @pytest.mark.parametrize("before", [True, False])
    def test_who_wants_it_stopped_gets_that(self, running, fake, before):
        engine = running(State.WAKING)
        if before:
            Engine.objects.filter(pk=engine.pk).update(desired=Desired.STOP)
            assert not ending.start_afresh(engine, NOW, "it is tired")
        else:
            assert ending.start_afresh(engine, NOW, "it is tired")
        lifecycle.request_terminate(engine, NOW, "alice")
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, fake.containers) == (State.STOPPED, {})

    def test_a_stop_that_comes_last_wins(self, running, fake, monkeypatch):
        """It came between the look at the row and the move."""
        engine = running(State.WAKING)
        assert ending.start_afresh(engine, NOW, "it is tired")
        stale = Engine.objects.get(pk=engine.pk)
        lifecycle.request_terminate(engine, NOW, "alice")
        assert not lifecycle.start_afresh(stale, NOW)
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert engine.state == State.STOPPED


class TestItsStart:
    def test_one_that_fails_then_says_why(self, running, fake):
        engine = running(State.WAKING)
        assert ending.start_afresh(engine, NOW, "it is tired")
        ending.stop(engine.pk)
        launching.launch(engine.pk)
        engine.refresh_from_db()
        assert engine.state == State.LOADING
        fake.die(engine.container_name, "", exit_code=137, oom_killed=True)
        reconciled(engine)
        assert (engine.state, engine.cause_code, engine.generation) == (State.FAILED, "out_of_memory", 2)

    def test_its_time_line_is_that_of_the_new_one(self, running):
        engine = running(State.WAKING)
        assert ending.start_afresh(engine, timezone.now(), "it is tired")
        ending.stop(engine.pk)
        engine = Engine.objects.prefetch_related("events").get()
        (step,) = starts.timeline(engine)
        assert (step.phase, step.started_at.year) == ("queue", timezone.now().year)


def test_a_stand_in_that_does_not_wake_serves_again(simulator, worker, client_of, alice, setting):
    """By the reconciler alone."""
    setting(sleep_level=1)
    simulator("--simulate-sleep-failure", "wake")
    api = client_of(alice)
    api.post("/vllm_request/start", {"Model": "acme/tiny"}, format="json")
    engine = Engine.objects.get()
    assert sleeping.put_to_sleep(engine, timezone.now(), "the portal")
    wait_until(lambda: Engine.objects.get().slept_at)
    assert api.post(f"/api/v1/engines/{engine.pk}/wake").status_code == 202
    wait_until(lambda: Engine.objects.get().generation == 2)
    wait_until(lambda: Engine.objects.get().state == State.READY)
    assert Engine.objects.get().container_id != engine.container_id
