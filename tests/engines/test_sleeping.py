"""vLLM's own sleep: who is put to it, in which order, and what becomes of one that sleeps."""

from datetime import timedelta

import pytest
from django.utils import timezone

from engines import (
    checking,
    ending,
    launching,
    reclaiming,
    reconcile,
    sleeping,
    terms,
)
from engines.gpu_hours import idle_s, measured
from engines.models import CpuLease, Engine, Gpu, GpuLease
from engines.probing import address_of
from engines.states import Desired, State
from tests.engines.conftest import NOW, goes_on, is_asleep, join_apart
from tests.threads import at_once
from tests.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_wait")]
ENGINES = "/api/v1/engines"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class TestWhoCan:
    @pytest.mark.parametrize(
        ("launcher", "device", "level", "found"),
        [("docker", "cuda", 1, 1), ("process", "cuda", 2, 2), ("simulator", "cpu", 2, 2), ("process", "cpu", 1, 0),
         ("docker", "rocm", 1, 0), ("docker", "cuda", 0, 0), ("simulator", "cpu", 0, 0)],
    )  # fmt: skip
    def test_it_is_decided_at_the_launch_and_kept(self, engine_in, setting, launcher, device, level, found):
        setting(sleep_level=level)
        engine = engine_in(State.PLACED, launcher=launcher, device=device)
        assert launching._leave_placed(engine)
        engine.refresh_from_db()
        assert engine.sleep_level == found
        setting(sleep_level=0)
        spec = launching.launch_spec(engine)
        assert ("--enable-sleep-mode" in spec.argv, spec.env.get("VLLM_SERVER_DEV_MODE")) == (
            (True, "1") if found else (False, None)
        )

    @pytest.mark.parametrize(
        ("own", "default", "most", "stop", "minutes"),
        [(None, None, None, None, None), (None, 15, None, None, 15), (30, 15, None, None, 30),
         (None, None, 45, None, 45), (30, None, None, 60, 30), (60, None, None, 60, None), (90, None, None, 60, None)],
    )  # fmt: skip
    def test_when(self, engine_in, setting, own, default, most, stop, minutes):
        setting(sleep_level=1, sleep_minutes=default, sleep_minutes_most=most, idle_stop_minutes=stop)
        engine = engine_in(State.READY, sleep_minutes=own, sleep_level=1)
        assert terms.sleep_at(engine) is None, "nobody has looked yet"
        engine.used_at = NOW
        assert terms.sleep_at(engine) == (None if minutes is None else NOW + minutes * MINUTE)

    @pytest.mark.parametrize("why", ["cannot", "owner", "settings", "state"])
    def test_and_when_never(self, engine_in, setting, why):
        setting(sleep_level=0 if why == "settings" else 1, sleep_minutes=15)
        engine = engine_in(
            State.UNHEALTHY if why == "state" else State.READY,
            sleep_level=0 if why == "cannot" else 1, wakes=why != "owner", used_at=NOW,
        )  # fmt: skip
        assert terms.sleep_at(engine) is None

    def test_one_that_is_kept_stays_awake_until_then(self, engine_in, setting):
        setting(sleep_level=1, sleep_minutes=15)
        engine = engine_in(State.READY, sleep_level=1, used_at=NOW, keep_until=NOW + HOUR)
        assert terms.sleep_at(engine) == NOW + HOUR


class TestFallingAsleep:
    @pytest.mark.parametrize("level", [1, 2])
    def test_it_sleeps_and_keeps_its_place(self, sleeper, fake, level):
        engine, process = sleeper(State.READY, level)
        gpu = Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=NOW)
        GpuLease.objects.create(gpu=gpu, engine=engine)
        assert sleeping.put_to_sleep(engine, NOW, "the portal")
        assert (engine.state, engine.desired, engine.slept_at) == (State.SLEEPING, Desired.RUN, None)
        assert not is_asleep(process)
        assert goes_on(engine) == State.SLEEPING
        assert engine.slept_at is not None
        name = {1: "weights_offloaded", 2: "discard_all"}[level]
        assert process.metric("vllm:engine_sleep_state", sleep_state=name) == 1
        assert GpuLease.objects.filter(engine=engine).exists()
        assert fake.containers

    def test_not_before_everybody_knows(self, sleeper, monkeypatch):
        monkeypatch.setattr(ending, "KNOWN", timedelta(days=1))
        engine, process = sleeper()
        assert goes_on(engine) == State.SLEEPING
        assert (engine.slept_at, is_asleep(process)) == (None, False)

    def test_not_while_it_works_for_somebody(self, sleeper):
        engine, process = sleeper()
        body = {"model": "acme/tiny", "prompt": "Hi", "max_tokens": 5000, "ignore_eos": True}
        key = address_of(engine).key
        with process.open("/v1/completions", body, authorization=f"Bearer {key}"):
            wait_until(lambda: process.running() == 1)
            assert goes_on(engine) == State.SLEEPING
            assert (engine.slept_at, is_asleep(process)) == (None, False)
        wait_until(lambda: process.running() == 0)
        goes_on(engine)
        assert is_asleep(process)

    @pytest.mark.parametrize("flags", [("--simulate-sleep-failure", "sleep"), None])
    def test_one_that_refuses_is_ready_again_and_is_not_asked_again(self, sleeper, served, flags, setting):
        setting(sleep_level=1, sleep_minutes=1)
        if flags:
            engine, _ = sleeper(State.SLEEPING, 1, *flags)
        else:  # it has no such route
            engine, process = served(State.SLEEPING, sleep_level=1)
            Engine.objects.filter(pk=engine.pk).update(port=process.port)
        assert goes_on(engine) == State.READY
        assert (engine.sleep_level, engine.slept_at, engine.deadline_at) == (0, None, None)
        engine.used_at = NOW
        assert terms.sleep_at(engine) is None
        assert "it does not fall asleep" in engine.events.order_by("-pk")[1].message

    def test_one_that_does_not_say_is_woken_after_a_while(self, engine_in, fake):
        engine = engine_in(State.SLEEPING, deadline_at=NOW)
        sleeping.watch(engine, NOW + MINUTE)
        engine.refresh_from_db()
        assert engine.state == State.WAKING

    def test_of_many_who_put_it_to_sleep_one_does(self, engine_in):
        engine = engine_in(State.READY)
        copies = [Engine.objects.get(pk=engine.pk) for _ in range(6)]
        assert sum(at_once(*[lambda one=one: sleeping.put_to_sleep(one, NOW, "x") for one in copies])) == 1

    def test_who_wants_it_stopped_gets_that(self, engine_in):
        engine = engine_in(State.READY)
        Engine.objects.filter(pk=engine.pk).update(desired=Desired.STOP)
        assert not sleeping.put_to_sleep(engine, NOW, "x")


class TestWhileItSleeps:
    def test_it_is_left_alone(self, sleeper, fake):
        engine, process = sleeper()
        goes_on(engine)
        for _ in range(3):
            reconcile.reconcile(timezone.now())
            join_apart()
        engine.refresh_from_db()
        assert (engine.state, engine.missed_checks, is_asleep(process)) == (State.SLEEPING, 0, True)
        assert fake.calls == []

    def test_its_death_is_seen_at_once(self, sleeper, fake):
        """Where nobody may wake it: else it is asleep, see test_afresh."""
        engine, _ = sleeper(wakes=False)
        goes_on(engine)
        fake.die(engine.container_name, "", exit_code=137, oom_killed=True)
        reconcile.reconcile(timezone.now())
        engine.refresh_from_db()
        assert (engine.state, engine.cause_code) == (State.FAILED, "out_of_memory")

    def test_one_that_answers_nothing_any_more_is_woken_to_see(self, sleeper):
        engine, process = sleeper()
        goes_on(engine)
        process.close()
        for missed in (1, 2):
            checking.check(engine.pk)
            engine.refresh_from_db()
            assert (engine.state, engine.missed_checks) == (State.SLEEPING, missed)
        checking.check(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.deadline_at is not None) == (State.WAKING, True)

    @pytest.mark.parametrize("slept", [False, True])
    def test_it_may_be_stopped(self, sleeper, client_of, alice, fake, slept):
        engine, _ = sleeper()
        if slept:
            goes_on(engine)
        assert client_of(alice).delete(f"{ENGINES}/{engine.pk}").status_code == 202
        assert goes_on(engine) == State.STOPPING
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, fake.containers) == (State.STOPPED, {})

    def test_it_ends_with_its_lease_and_when_its_owner_goes(self, sleeper, engine_in, fake):
        leased, left = engine_in(State.SLEEPING), engine_in(State.SLEEPING)
        Engine.objects.filter(pk=leased.pk).update(lease_ends_at=NOW)
        Engine.objects.filter(pk=left.pk).update(owner=None)
        reconcile.reconcile(timezone.now())
        leased.refresh_from_db()
        left.refresh_from_db()
        assert (leased.desired, leased.cause_code, left.desired) == (Desired.STOP, "lease_ended", Desired.STOP)

    @pytest.mark.parametrize(("wakes", "ends"), [(True, State.ASLEEP), (False, State.STOPPED)])
    def test_after_a_longer_while_it_is_stopped_as_ever(self, sleeper, fake, wakes, ends):
        engine, _ = sleeper(wakes=wakes)
        goes_on(engine)
        gpu = Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=NOW)
        GpuLease.objects.create(gpu=gpu, engine=engine)
        assert terms.rest(engine, timezone.now(), terms.IDLE, "It had no request.", "")
        assert GpuLease.objects.exists(), "its place is free when nothing runs any more"
        wait_until(lambda: ending.stop(engine.pk) or Engine.objects.get(pk=engine.pk).state == ends)
        engine.refresh_from_db()
        assert (engine.slept_at if wakes else None, fake.containers) == (None, {})
        assert not GpuLease.objects.exists()

    def test_the_time_it_was_idle_counts_on(self, engine_in, setting):
        setting(idle_stop_minutes=60)
        engine = engine_in(State.SLEEPING, used_at=NOW)
        assert (terms.idle_since(engine), terms.idle_stop_at(engine)) == (NOW, NOW + HOUR)
        assert terms.sleep_at(engine) is None

    def test_its_gpu_hours_are_held_and_idle(self, engine_in):
        engine = engine_in(State.SLEEPING, device="cuda")
        changes = [(NOW, State.PLACED), (NOW + HOUR, State.READY), (NOW + 2 * HOUR, State.SLEEPING)]
        found = measured(engine, changes, (NOW, NOW + 9 * HOUR))
        assert (found.held_s, idle_s(found, [])) == (9 * 3600, 8 * 3600)

    def test_a_portal_that_stops_ends_it(self, sleeper, fake):
        engine, _ = sleeper()
        goes_on(engine)
        assert reconcile.stop_all(timeout_s=10)
        engine.refresh_from_db()
        assert (engine.state, fake.containers) == (State.STOPPED, {})


class TestGivingWay:
    def test_one_that_sleeps_goes_first_however_short(self, engine_in, setting):
        setting(reclaim_idle_minutes=60, cpu_slots=2)
        awake, asleep = engine_in(State.READY), engine_in(State.SLEEPING)
        for one, used_at in ((awake, NOW - 9 * HOUR), (asleep, NOW - MINUTE)):
            one.used_at = used_at
            one.save()
        Engine.objects.filter(pk=awake.pk).update(used_at=NOW - 9 * HOUR)
        self.leases(awake, asleep)
        engine_in(State.QUEUED)
        assert reclaiming.chosen([awake, asleep], NOW) == [asleep]
        assert reclaiming.chosen([awake], NOW) == [awake]

    def test_but_not_one_that_is_kept_nor_where_none_is_to(self, engine_in, setting):
        setting(reclaim_idle_minutes=60, cpu_slots=1)
        asleep = engine_in(State.SLEEPING, used_at=NOW, keep_until=NOW + HOUR)
        self.leases(asleep)
        engine_in(State.QUEUED)
        assert reclaiming.chosen([asleep], NOW) == []
        asleep.keep_until = None
        assert reclaiming.chosen([asleep], NOW) == [asleep]
        setting(reclaim_idle_minutes=None)
        assert reclaiming.chosen([asleep], NOW) == []

    @staticmethod
    def leases(*engines):
        for slot, engine in enumerate(engines):
            CpuLease.objects.create(slot=slot, engine=engine)
