"""vLLM's own sleep: who is put to it, in which order, how it comes back, and what is left of it half done."""

from datetime import timedelta

import pytest
from django.utils import timezone

from engines import (
    checking,
    ending,
    health,
    launching,
    lifecycle,
    reclaiming,
    reconcile,
    sleeping,
    terms,
    vllm_sleep,
    waking,
)
from engines.gpu_hours import idle_s, measured
from engines.models import CpuLease, Engine, Gpu, GpuLease, GpuSlice
from engines.probing import address_of
from engines.states import Desired, State
from tests.engines.conftest import NOW, join_apart, wait_until
from tests.threads import at_once
from vllm_portal.errors import CallerError

pytestmark = pytest.mark.django_db(transaction=True)
ENGINES = "/api/v1/engines"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    """No web process reads the routes here."""
    monkeypatch.setattr(ending, "KNOWN", timedelta(0))


def goes_on(engine):
    """What a hint, or the reconciler, has done. Returns the state."""
    sleeping.go_on(engine.pk)
    engine.refresh_from_db()
    return engine.state


def is_asleep(process):
    return process.get("/is_sleeping").json()["is_sleeping"]


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


class TestWaking:
    @pytest.mark.parametrize("level", [1, 2])
    def test_it_gives_a_real_answer_before_it_is_ready(self, sleeper, level):
        engine, process = sleeper(State.SLEEPING, level)
        goes_on(engine)
        assert waking.wake(engine, "alice")
        assert (engine.state, engine.generation) == (State.WAKING, 1)
        tokens = process.tokens()
        assert goes_on(engine) == State.READY
        assert (engine.slept_at, engine.deadline_at, engine.generation) == (None, None, 1)
        assert process.tokens() == (tokens[0] + engine.probe_prompt_tokens, tokens[1] + engine.probe_generated_tokens)
        assert engine.probe_generated_tokens == 1
        answer = process.post(
            "/v1/completions", {"model": "acme/tiny", "prompt": "Hi", "max_tokens": 3},
            authorization=f"Bearer {address_of(engine).key}",
        )  # fmt: skip
        assert answer.json()["choices"][0]["text"] != "!!!"

    def test_of_many_who_wake_it_one_does(self, engine_in):
        engine = engine_in(State.SLEEPING)
        copies = [Engine.objects.get(pk=engine.pk) for _ in range(8)]
        woken = at_once(*[lambda copy=copy: waking.wake(copy, "alice") for copy in copies])
        assert sorted(woken) == [False] * 7 + [True]
        assert [str(one) for one in engine.events.all()].count("SLEEPING -> WAKING") == 1

    def test_one_that_was_not_asleep_yet_is_ready_at_once(self, sleeper):
        engine, process = sleeper(State.READY)
        sleeping.put_to_sleep(engine, NOW, "the portal")
        assert waking.see(engine.pk, "alice") == (False, "waking", "")
        assert goes_on(engine) == State.READY
        assert "fall asleep" not in process.log()
        assert waking.see(engine.pk, "alice").ready

    @pytest.mark.parametrize("done", range(4))
    def test_level_2_goes_on_wherever_it_was_cut_off(self, sleeper, done):
        engine, _ = sleeper(State.SLEEPING, 2)
        goes_on(engine)
        address = address_of(engine)
        for path, body, _ in vllm_sleep._WAKE[2][:done]:
            assert health.call("POST", address, path, body).status == 200
        assert waking.wake(engine, "alice")
        assert goes_on(engine) == State.READY
        answer = health.call("POST", address, "/v1/completions", {"prompt": "Hi", "max_tokens": 3})
        assert answer.body["choices"][0]["text"] != "!!!"

    def test_one_that_does_not_wake_says_so(self, sleeper):
        engine, _ = sleeper(State.SLEEPING, 1, "--simulate-sleep-failure", "wake")
        goes_on(engine)
        assert waking.wake(engine, "alice")
        assert goes_on(engine) == State.WAKING
        assert engine.detail == "tries again: /wake_up was answered with 500"
        assert waking.see(engine.pk, "alice").told == f"waking {engine.detail}"

    def test_while_another_measures_the_memory_of_its_gpu_it_waits(self, engine_in):
        gpu = Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=NOW)
        engine, other = engine_in(State.SLEEPING), engine_in(State.LOADING)
        for number, one in enumerate((engine, other)):
            lease = GpuLease.objects.create(gpu=gpu, engine=one, slices=5)
            GpuSlice.objects.create(gpu=gpu, number=number, lease=lease)
        with pytest.raises(CallerError, match=f"until {other.name} has come up"):
            waking.wake(engine, "alice")
        assert f"until {other.name} has come up" in waking.see(engine.pk, "alice").told
        assert lifecycle.move(other, State.LOADING, State.READY, NOW)
        assert waking.see(engine.pk, "alice").told == "waking"
        third = engine_in(State.QUEUED, device="cuda", gpu_memory_utilization=0.25)
        assert not lifecycle.place(third, [gpu], NOW), "and who comes up waits for one that wakes"
        engine.refresh_from_db()
        assert lifecycle.move(engine, State.WAKING, State.READY, NOW)
        assert lifecycle.place(third, [gpu], NOW)

    def test_ready_is_awake_whatever_was_late(self, sleeper):
        """A /sleep that a worker sent who had been stopped for a while."""
        engine, process = sleeper(State.READY)
        process.post("/sleep?level=1", None)
        checking.check(engine.pk)
        engine.refresh_from_db()
        assert engine.state == State.WAKING
        assert goes_on(engine) == State.READY
        assert not is_asleep(process)


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


class TestWhoeverDies:
    """A worker that dies in between leaves it to the next one."""

    @pytest.mark.parametrize("call", ["fall_asleep", "is_asleep"])
    def test_while_it_falls_asleep(self, sleeper, monkeypatch, call):
        engine, process = sleeper()
        with monkeypatch.context() as patched:
            patched.setattr(vllm_sleep, call, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                sleeping.go_on(engine.pk)
        reconcile.reconcile(timezone.now())
        join_apart()
        engine.refresh_from_db()
        assert (engine.state, engine.slept_at is not None, is_asleep(process)) == (State.SLEEPING, True, True)

    @pytest.mark.parametrize("call", ["vllm_sleep.wake_up", "health.prove", "lifecycle.move"])
    def test_while_it_wakes(self, sleeper, monkeypatch, call):
        engine, process = sleeper()
        goes_on(engine)
        waking.wake(engine, "alice")
        module, name = call.split(".")
        with monkeypatch.context() as patched:
            patched.setattr(getattr(sleeping, module), name, lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                sleeping.go_on(engine.pk)
        reconcile.reconcile(timezone.now())
        join_apart()
        engine.refresh_from_db()
        assert (engine.state, engine.generation, is_asleep(process)) == (State.READY, 1, False)


class TestApi:
    def test_its_owner_wakes_it(self, client_of, alice, bob, engine_in):
        engine = engine_in(State.SLEEPING, shared=True)
        assert client_of(bob).post(f"{ENGINES}/{engine.pk}/wake").status_code == 404
        for _ in range(2):
            answer = client_of(alice).post(f"{ENGINES}/{engine.pk}/wake")
            assert (answer.status_code, answer.json()["state"]) == (202, "WAKING")

    def test_it_tells_when_it_sleeps(self, client_of, alice, engine_in, setting):
        setting(sleep_level=1, sleep_minutes=15)
        engine = engine_in(State.READY, sleep_level=1, used_at=NOW)
        told = client_of(alice).get(f"{ENGINES}/{engine.pk}").json()
        assert (told["sleep_level"], told["sleep_minutes"], told["sleep_at"]) == (1, None, "2025-01-01T00:15:00Z")

    def test_its_owner_says_when_within_the_admins_most(self, client_of, alice, root, engine_in, setting):
        setting(sleep_minutes_most=30)
        engine = engine_in(State.READY)
        api, address = client_of(alice), f"{ENGINES}/{engine.pk}"
        assert api.patch(address, {"sleep_minutes": 30}, format="json").json()["sleep_minutes"] == 30
        for wrong in (31, 0, "x"):
            answer = api.patch(address, {"sleep_minutes": wrong}, format="json")
            assert (answer.status_code, list(answer.json())) == (400, ["sleep_minutes"])
        assert client_of(root).patch(address, {"sleep_minutes": 31}, format="json").status_code == 200
        assert api.patch(address, {"sleep_minutes": None}, format="json").json()["sleep_minutes"] is None
        refused = api.post(ENGINES, {"model": "acme/tiny", "sleep_minutes": 31}, format="json")
        assert refused.json() == {"sleep_minutes": ["At most 30 minutes here; an admin may give more."]}

    @pytest.mark.parametrize("state", [State.SLEEPING, State.WAKING])
    def test_the_documented_list_has_it(self, client_of, alice, engine_in, state):
        engine = engine_in(state)
        (listed,) = client_of(alice).get("/active_models/").json()
        assert listed["container_id"] == engine.container_id
        (found,) = client_of(alice).get(f"{ENGINES}?state={state}").json()["results"]
        assert found["state"] == state


class TestPages:
    @pytest.fixture
    def browser(self, client, alice):
        client.force_login(alice)
        return client

    def test_the_card_says_what_it_means_and_wakes_it(self, browser, engine_in):
        engine = engine_in(State.SLEEPING)
        page = browser.get("/cards").content.decode()
        assert ">dozing<" in page
        assert "#rest" in page
        assert "its place on the GPU is kept" in page
        assert browser.post(f"/engine/{engine.pk}/wake").status_code == 302
        page = browser.get("/cards").content.decode()
        assert ">waking<" in page
        assert f"/engine/{engine.pk}/wake" not in page

    def test_the_card_counts_down(self, browser, engine_in, setting):
        setting(sleep_level=1, sleep_minutes=15, idle_stop_minutes=60)
        engine_in(State.READY, sleep_level=1, used_at=NOW)
        page = browser.get("/cards").content.decode()
        assert "dozes from Wed 00:15 UTC if nobody asks it" in page
        assert "sleeps from Wed 01:00 UTC if nobody asks it" in page

    def test_its_page_sets_it_where_it_can(self, browser, engine_in):
        engine = engine_in(State.READY, sleep_level=1)
        page = f"/engine/{engine.pk}"
        assert 'name="sleep_minutes"' in browser.get(page).content.decode()
        browser.post(f"{page}/keep", {"sleep_minutes": "5", "wakes": "true"})
        assert Engine.objects.get().sleep_minutes == 5
        browser.post(f"{page}/keep", {"wakes": "true"})
        assert Engine.objects.get().sleep_minutes == 5, "a form without it leaves it"
        browser.post(f"{page}/keep", {"sleep_minutes": "", "wakes": "true"})
        assert Engine.objects.get().sleep_minutes is None
        Engine.objects.update(sleep_level=0)
        assert 'name="sleep_minutes"' not in browser.get(page).content.decode()


def test_the_stand_in_sleeps_and_wakes(simulator, worker, client_of, alice, setting):
    """By the reconciler alone, from the start to the end."""
    setting(sleep_level=2)
    simulator()
    api = client_of(alice)
    api.post("/vllm_request/start", {"Model": "acme/tiny"}, format="json")
    engine = Engine.objects.get()
    assert (engine.state, engine.sleep_level) == (State.READY, 2)
    for _ in range(2):
        engine.refresh_from_db()
        container = engine.container_id
        assert sleeping.put_to_sleep(engine, timezone.now(), "the portal")
        wait_until(lambda: Engine.objects.get().slept_at)
        assert api.post(f"{ENGINES}/{engine.pk}/wake").status_code == 202
        wait_until(lambda: Engine.objects.get().state == State.READY)
        assert (Engine.objects.get().container_id, Engine.objects.get().generation) == (container, 1)
