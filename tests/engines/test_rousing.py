"""vLLM's own sleep: how an engine comes back, and what is left of either way half done."""

from datetime import timedelta

import pytest
from django.utils import timezone

from engines import (
    checking,
    health,
    lifecycle,
    reconcile,
    sleeping,
    vllm_sleep,
    waking,
)
from engines.models import Engine, Gpu, GpuLease, GpuSlice
from engines.probing import address_of
from engines.states import State
from tests.engines.conftest import NOW, goes_on, is_asleep, join_apart
from tests.threads import at_once
from tests.waiting import wait_until
from vllm_portal.errors import CallerError

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_wait")]
ENGINES = "/api/v1/engines"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


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
