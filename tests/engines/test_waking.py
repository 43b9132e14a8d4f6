"""Engines that sleep: how they come to, who wakes them, and what is kept and what forgotten."""

from datetime import timedelta

import pytest
from django.test import Client

from engines import ending, lifecycle, reconcile, starts, terms, waking
from engines.gpu_hours import measured
from engines.models import Engine, Gpu, GpuLease
from engines.states import Desired, State
from tests.engines.conftest import NOW, join_apart
from tests.threads import at_once
from tests.waiting import wait_until
from vllm_portal.encryption import decrypt
from vllm_portal.errors import CallerError

pytestmark = pytest.mark.django_db(transaction=True)
ENGINES = "/api/v1/engines"
DAY = timedelta(days=1)


def rest(engine: Engine) -> bool:
    return terms.rest(engine, NOW, terms.IDLE, "It had no request.", "Start it again.")


class TestFallingAsleep:
    def test_it_ends_and_keeps_what_it_needs_to_come_back(self, running, fake):
        engine = running(State.READY, hf_token="hf_secret")
        gpu = Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=NOW)
        GpuLease.objects.create(gpu=gpu, engine=engine)
        Engine.objects.filter(pk=engine.pk).update(lease_ends_at=NOW + DAY)
        assert rest(engine)
        assert (engine.state, engine.desired, engine.cause_code) == (State.STOPPING, Desired.SLEEP, "idle")
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.host, engine.port, engine.lease_ends_at) == (State.ASLEEP, "", None, None)
        assert decrypt(engine.hf_token_encrypted) == "hf_secret"
        assert not fake.containers
        assert not GpuLease.objects.exists()
        assert engine.ended_at is None

    @pytest.mark.parametrize("why", ["owner", "settings"])
    def test_where_none_may_wake_it_it_ends(self, running, setting, why):
        setting(asleep_days=0 if why == "settings" else 3)
        engine = running(State.READY, wakes=why == "settings")
        assert rest(engine)
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.cause_code, engine.advice) == (State.STOPPED, "idle", "Start it again.")

    def test_who_wants_it_stopped_meanwhile_gets_that(self, running):
        engine = running(State.READY)
        assert rest(engine)
        assert lifecycle.request_terminate(engine, NOW, "alice")
        assert not lifecycle.request_terminate(engine, NOW, "alice"), "once"
        engine.refresh_from_db()
        assert engine.cause == "", "why it was to sleep counts no longer"
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.hf_token_encrypted) == (State.STOPPED, "")

    def test_a_stop_that_came_first_counts(self, running):
        engine = running(State.READY)
        Engine.objects.filter(pk=engine.pk).update(desired=Desired.STOP)  # its asker died here
        assert not rest(engine)

    @pytest.mark.parametrize("state", sorted(set(State) - {State.READY, State.SLEEPING}))
    def test_only_one_that_is_ready_does(self, engine_in, state):
        assert not rest(engine_in(state))

    def test_a_worker_that_dies_in_between_leaves_it_to_the_next(self, running, fake, monkeypatch):
        engine = running(State.READY)
        assert rest(engine)
        with monkeypatch.context() as patched:
            patched.setattr(lifecycle, "asleep", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                ending.stop(engine.pk)
        reconcile.reconcile(NOW)
        join_apart()
        engine.refresh_from_db()
        assert engine.state == State.ASLEEP


class TestAsleep:
    def test_it_is_no_use_of_gpus_and_nobody_looks_at_it(self, engine_in, alice, fake):
        engine = engine_in(State.ASLEEP, device="cuda")
        changes = [(NOW, State.QUEUED), (NOW, State.PLACED), (NOW + DAY, State.ASLEEP)]
        assert measured(engine, changes, (NOW, NOW + 9 * DAY)).held_s == DAY.total_seconds()
        reconcile.reconcile(NOW)
        join_apart()
        assert fake.calls == []

    def test_after_some_days_it_ends_and_its_token_is_forgotten(self, engine_in, fake, setting):
        setting(asleep_days=3)
        engine = engine_in(State.ASLEEP, hf_token="hf_secret")
        for days, state in ((2.9, State.ASLEEP), (3, State.STOPPING)):
            reconcile.reconcile(NOW + days * DAY)
            join_apart()
            engine.refresh_from_db()
            assert engine.state in (state, State.STOPPED if state == State.STOPPING else state)
        reconcile.reconcile(NOW + 3 * DAY)
        join_apart()
        engine.refresh_from_db()
        assert (engine.state, engine.hf_token_encrypted) == (State.STOPPED, "")
        assert engine.cause == "It slept for 3 days, and nobody woke it."

    def test_its_owner_may_end_it_and_then_it_says_nothing_of_sleep(self, client_of, alice, engine_in, fake):
        engine = engine_in(State.ASLEEP)
        assert client_of(alice).delete(f"{ENGINES}/{engine.pk}").status_code == 202
        reconcile.reconcile(NOW)
        join_apart()
        engine.refresh_from_db()
        assert (engine.state, engine.cause_code, engine.cause) == (State.STOPPED, "", "")

    def test_the_portal_may_stop_and_leave_it(self, engine_in, fake):
        engine = engine_in(State.ASLEEP)
        assert reconcile.stop_all(timeout_s=5)
        engine.refresh_from_db()
        assert engine.state == State.ASLEEP

    def test_it_ends_when_its_owner_goes(self, engine_in, fake):
        engine = engine_in(State.ASLEEP)
        Engine.objects.filter(pk=engine.pk).update(owner=None)
        for _ in range(2):
            reconcile.reconcile(NOW)
            join_apart()
        engine.refresh_from_db()
        assert engine.state == State.STOPPED


class TestWaking:
    def test_it_is_the_same_engine_in_its_next_generation(self, engine_in):
        engine = engine_in(State.ASLEEP)
        Engine.objects.filter(pk=engine.pk).update(phases=[["load", 1.0, ""]], probe_prompt_tokens=7, log_size=9)
        engine.refresh_from_db()
        name = engine.container_name
        assert waking.wake(engine, "alice")
        engine.refresh_from_db()
        assert (engine.state, engine.desired, engine.generation) == (State.QUEUED, Desired.RUN, 2)
        assert engine.container_name != name
        assert (engine.cause_code, engine.cause, engine.change, engine.phases) == ("", "", None, [])
        assert (engine.probe_prompt_tokens, engine.log_size, engine.ready_at) == (0, 0, None)
        assert [step.phase for step in starts.timeline(engine)] == ["queue"]
        assert str(engine.events.last()) == "ASLEEP -> QUEUED"

    def test_of_many_who_wake_it_one_does(self, engine_in):
        engine = engine_in(State.ASLEEP)
        copies = [Engine.objects.get(pk=engine.pk) for _ in range(8)]
        woken = at_once(*[lambda copy=copy: waking.wake(copy, "alice") for copy in copies])
        assert sorted(woken) == [False] * 7 + [True]
        engine.refresh_from_db()
        assert engine.generation == 2

    @pytest.mark.parametrize("state", sorted(set(State) - {State.ASLEEP, State.SLEEPING}))
    def test_no_other_is_woken(self, engine_in, state):
        engine = engine_in(state)
        assert not waking.wake(engine, "alice")
        engine.refresh_from_db()
        assert (engine.state, engine.generation) == (state, 1)

    def test_it_waits_behind_those_who_wait_already(self, engine_in):
        early = engine_in(State.ASLEEP, device="cuda")
        waits = engine_in(State.QUEUED, device="cuda")
        assert waking.wake(early, "alice")
        assert list(Engine.objects.in_line(on_cpu=False)) == [waits, early]

    def test_its_owners_gpus_are_counted(self, engine_in, setting):
        setting(gpus_per_user=2)
        engine = engine_in(State.ASLEEP, device="cuda", tensor_parallel_size=2)
        engine_in(State.READY, device="cuda")
        with pytest.raises(CallerError, match="1 GPUs, and 2 are allowed: 2 more"):
            waking.wake(engine, "alice")
        sight = waking.see(engine.pk, "alice")
        assert (sight.ready, "2 are allowed" in sight.lost) == (False, True)
        setting(gpus_per_user=3)
        assert waking.wake(engine, "alice")

    def test_what_it_does_is_told_in_one_line(self, engine_in):
        engine = engine_in(State.ASLEEP, device="cuda")
        assert waking.see(engine.pk, "alice") == (False, "queued", "")
        Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=NOW)
        assert waking.see(engine.pk, "alice") == (False, "queued, number 1 in line for GPUs", "")
        engine.refresh_from_db()
        assert lifecycle.place(engine, [], NOW)
        assert lifecycle.move(engine, State.PLACED, State.STARTING, NOW)
        assert lifecycle.move(engine, State.STARTING, State.LOADING, NOW)
        lifecycle.progress(engine, NOW, "loading\nweights 43%")
        assert waking.see(engine.pk, "alice") == (False, "loading loading weights 43%", "")
        assert lifecycle.move(engine, State.LOADING, State.READY, NOW)
        assert waking.see(engine.pk, "alice").ready
        assert lifecycle.move(engine, State.READY, State.UNHEALTHY, NOW)
        assert waking.see(engine.pk, "alice").lost == "It is UNHEALTHY."
        engine.delete()
        assert waking.see(engine.pk, "alice").lost == "It is gone."

    def test_the_stand_in_sleeps_and_wakes(self, simulator, worker, client_of, alice):
        simulator()
        api = client_of(alice)
        api.post("/vllm_request/start", {"Model": "acme/tiny"}, format="json")
        engine = Engine.objects.get()
        for generation in (2, 3):
            engine.refresh_from_db()
            assert rest(engine)
            wait_until(lambda: ending.stop(engine.pk) or Engine.objects.get().state == State.ASLEEP)
            woken = api.post(f"{ENGINES}/{engine.pk}/wake")
            assert (woken.status_code, api.post(f"{ENGINES}/{engine.pk}/wake").status_code in (202, 409)) == (202, True)
            wait_until(lambda: Engine.objects.get().state == State.READY)
            assert Engine.objects.get().generation == generation
        ready = api.get(f"{ENGINES}/{engine.pk}").json()
        assert ready["timeline"][-1]["phase"] == "ready"


class TestApi:
    def test_it_is_woken_by_its_owner_and_by_nobody_else(self, client_of, alice, bob, engine_in):
        engine = engine_in(State.ASLEEP, shared=True)
        assert client_of(bob).post(f"{ENGINES}/{engine.pk}/wake").status_code == 404
        answer = client_of(alice).post(f"{ENGINES}/{engine.pk}/wake")
        assert (answer.status_code, answer.json()["state"]) == (202, "QUEUED")
        assert client_of(alice).post(f"{ENGINES}/{engine.pk}/wake").status_code == 202  # it wakes

    def test_what_does_not_sleep_is_said(self, client_of, alice, engine_in):
        engine = engine_in(State.READY)
        answer = client_of(alice).post(f"{ENGINES}/{engine.pk}/wake")
        assert (answer.status_code, answer.json()) == (409, {"detail": "The engine is READY."})

    def test_whether_it_wakes_is_said_at_the_start_and_changed(self, client_of, alice, fake):
        api = client_of(alice)
        one = api.post(ENGINES, {"model": "acme/tiny", "wakes": False}, format="json").json()
        assert one["wakes"] is False
        assert api.patch(f"{ENGINES}/{one['id']}", {"wakes": True}, format="json").json()["wakes"] is True
        assert api.patch(f"{ENGINES}/{one['id']}", {"wakes": "x"}, format="json").status_code == 400

    def test_the_documented_list_has_it(self, client_of, alice, engine_in):
        engine = engine_in(State.ASLEEP)
        (listed,) = client_of(alice).get("/active_models/").json()
        assert listed["container_id"] == engine.container_id


class TestPages:
    @pytest.fixture
    def browser(self, alice):
        browser = Client()
        browser.force_login(alice)
        return browser

    def test_the_card_says_it_and_wakes_it(self, browser, engine_in):
        engine = engine_in(State.ASLEEP)
        page = browser.get("/cards").content.decode()
        assert ">asleep<" in page
        assert f"/engine/{engine.pk}/wake" in page
        assert browser.post(f"/engine/{engine.pk}/wake").status_code == 302
        engine.refresh_from_db()
        assert engine.state == State.QUEUED
        assert f"/engine/{engine.pk}/wake" not in browser.get("/cards").content.decode()

    def test_what_keeps_it_from_waking_is_said(self, browser, engine_in, setting):
        setting(gpus_per_user=1)
        engine = engine_in(State.ASLEEP, device="cuda")
        engine_in(State.READY, device="cuda")
        answer = browser.post(f"/engine/{engine.pk}/wake", follow=True)
        assert "1 are allowed" in answer.content.decode()

    def test_the_form_says_whether_it_sleeps(self, browser, engine_in):
        engine = engine_in(State.READY)
        browser.post(f"/engine/{engine.pk}/keep", {"idle_minutes": "5"})
        engine.refresh_from_db()
        assert engine.wakes is False
        browser.post(f"/engine/{engine.pk}/keep", {"idle_minutes": "5", "wakes": "true"})
        engine.refresh_from_db()
        assert engine.wakes is True
