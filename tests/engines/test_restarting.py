"""An engine that died after it was ready is started afresh, so often in a row and with growing pauses."""

import os
import re
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from engines import checking, ending, launching, lifecycle, reconcile, restarting, waking
from engines.causes import KNOWN
from engines.causes.base import again
from engines.diagnosis import Diagnosis
from engines.errors import StartFailed
from engines.models import Engine, Gpu, GpuLease
from engines.states import Desired, State
from tests.engines.conftest import NOW, join_apart
from tests.fakes.launchers import raising
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
LAUNCHERS = list((Path(ending.__file__).parent / "launchers").glob("*.py"))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(ending, "PAUSES_S", (0,))


def dies(engine, fake, **how):
    fake.die(engine.container_name, "", **{"exit_code": 137, "oom_killed": True, **how})
    checking.check(engine.pk)
    engine.refresh_from_db()
    return engine.state


def comes_back_from(engine, fake):
    dies(engine, fake)
    return comes_back(engine, State.LOADING)


def comes_back(engine, state=State.READY):
    """The next generation, as far as the reconciler takes it, and then to this state."""
    ending.stop(engine.pk)
    launching.launch(engine.pk)
    engine.refresh_from_db()
    assert engine.state == State.LOADING
    if state == State.READY:
        assert lifecycle.move(engine, State.LOADING, State.READY, timezone.now(), ready_at=timezone.now())
    return engine


@pytest.mark.parametrize("state", [State.READY, State.UNHEALTHY])
def test_it_is_started_afresh_in_its_place(running, fake, state):
    engine = running(state, device="cuda")
    gpu = Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=NOW)
    lease = GpuLease.objects.create(gpu=gpu, engine=engine)
    old = engine.container_name
    assert dies(engine, fake) == State.STOPPING
    assert (engine.desired, engine.restarts, engine.cause_code) == (Desired.RUN, 1, "")
    assert "is started afresh: 1 of 5 times: " in engine.events.last().message
    assert waking.see(engine.pk, "alice").lost == "", "whoever asks meanwhile is held"
    comes_back(engine)
    assert (engine.generation, old in fake.containers, len(fake.containers)) == (2, False, 1)
    assert GpuLease.objects.get() == lease


def test_after_so_many_in_a_row_it_has_failed_with_the_cause(running, fake, setting):
    setting(engine_restarts=2)
    engine = running(State.READY)
    for number in (1, 2):
        assert dies(engine, fake) == State.STOPPING
        assert comes_back(engine).restarts == number
    assert dies(engine, fake) == State.FAILED
    assert engine.cause_code == "out_of_memory"
    assert engine.cause.endswith("It was started again 2 times in a row.")
    assert fake.containers == {}


def test_one_that_ran_for_a_while_between_begins_to_count_anew(running, fake):
    engine = running(State.READY, restarts=5)
    Engine.objects.filter(pk=engine.pk).update(ready_at=timezone.now() - restarting.STEADY)
    assert (dies(engine, fake), engine.restarts) == (State.STOPPING, 1)


def test_a_restart_that_fails_is_one_of_them_and_a_first_start_is_not(running, fake):
    first = running(State.LOADING)
    assert dies(first, fake) == State.FAILED
    engine = running(State.READY)
    dies(engine, fake)
    comes_back(engine, State.LOADING)
    assert (dies(engine, fake), engine.restarts) == (State.STOPPING, 2)


@pytest.mark.parametrize("state", [State.PULLING, State.STARTING])
def test_so_is_one_that_does_not_come_as_far_as_loading(running, fake, state, monkeypatch):
    """As where the driver has not recovered yet."""
    engine = running(State.READY, launcher="docker")
    dies(engine, fake)
    ending.stop(engine.pk)
    refusal = raising(StartFailed("no_gpu_runtime", "Docker finds no GPU."))
    monkeypatch.setattr(fake, "before_prepare" if state == State.PULLING else "before_start", refusal)
    launching.launch(engine.pk)
    engine.refresh_from_db()
    assert (engine.state, engine.desired, engine.restarts) == (State.STOPPING, Desired.RUN, 2)
    assert engine.events.last().old_state == state
    Engine.objects.filter(pk=engine.pk).update(restarts=5)
    ending.stop(engine.pk)
    launching.launch(engine.pk)
    engine.refresh_from_db()
    assert (engine.state, engine.cause_code) == (State.FAILED, "no_gpu_runtime")
    assert engine.cause.endswith("It was started again 5 times in a row.")


@pytest.mark.parametrize("code", ["image_missing", "model_gated", "bad_setting", "arguments_wrong"])
def test_what_would_not_pass_by_itself_is_not_tried_again(running, fake, code):
    engine = running(State.READY)
    dies(engine, fake)
    ending.stop(engine.pk)
    fake.before_start = raising(StartFailed(code, "It cannot be.", "Change it."))
    launching.launch(engine.pk)
    engine.refresh_from_db()
    assert (engine.state, engine.cause_code, engine.advice) == (State.FAILED, code, "Change it.")
    assert engine.cause == "It cannot be. It was started again once."
    assert fake.containers == {}


def test_nor_is_what_its_log_says_is_for_good(running, fake):
    engine = comes_back_from(running(State.READY), fake)
    log = "error: argument --kv-cache-dtype: invalid choice: 'fp7'"
    fake.die(engine.container_name, "vllm serve: " + log)
    checking.check(engine.pk)
    engine.refresh_from_db()
    assert (engine.state, engine.cause_code) == (State.FAILED, "arguments_wrong")


def test_one_that_was_ready_comes_back_whatever_it_says(running, fake):
    """It worked as it is."""
    engine = running(State.READY)
    assert restarting.has_died(engine, timezone.now(), Diagnosis("arguments_wrong", "It cannot be."))


def test_which_known_causes_may_pass_by_themselves():
    passing = {
        "disk_full", "hub_unreachable", "gpu_not_ready", "no_gpu", "port_in_use", "nccl_failed", "not_enough_gpus",
        "gpu_memory_in_use", "gpu_fault", "host_out_of_memory", "shm_too_small", "kv_cache_too_small",
        "warm_up_out_of_memory", "weights_too_large", "gpu_out_of_memory",
    }  # fmt: skip
    assert {cause.code for cause in KNOWN} - restarting.CERTAIN == passing
    assert {cause.code for cause in KNOWN if cause.change is again} <= passing
    of_launchers = set(re.findall(r'StartFailed\(\s*"(\w+)"', "".join(path.read_text() for path in LAUNCHERS)))
    assert of_launchers - restarting.CERTAIN == {"registry_unreachable", "no_gpu_runtime", "name_taken", "disk_full"}
    assert {"model_gated", "image_missing"} <= restarting.CERTAIN


def test_its_lease_runs_on_also_where_it_has_to_fetch_its_model_anew(engine_in):
    """Without GPUs that are known it holds nothing, and so waits in line again."""
    engine = engine_in(State.FETCHING, restarts=1, lease_hours=2, lease_ends_at=NOW)
    assert lifecycle.get_in_line(engine, NOW)
    assert lifecycle.place(engine, [], NOW)
    assert engine.lease_ends_at == NOW


def test_one_that_hangs_is_ended_and_started_afresh(running, fake, long_ago):
    engine = running(State.UNHEALTHY, deadline_at=long_ago)
    checking.check(engine.pk)
    engine.refresh_from_db()
    assert (engine.state, engine.restarts, len(fake.containers)) == (State.STOPPING, 1, 1)
    comes_back(engine)
    assert len(fake.containers) == 1


def test_hanging_is_no_time_of_being_ready(running, setting, fake):
    """It hangs for longer than a row of deaths takes to end, before anybody gives up on it."""
    engine = running(State.UNHEALTHY, restarts=5)
    now = timezone.now()
    since = {"ready_at": now - 2 * restarting.STEADY, "state_since": now - 1.5 * restarting.STEADY}
    Engine.objects.filter(pk=engine.pk).update(**since, deadline_at=now)
    checking.check(engine.pk)
    engine.refresh_from_db()
    assert (engine.state, engine.cause_code) == (State.FAILED, "unresponsive")


def test_the_pauses_grow(running, fake, monkeypatch):
    monkeypatch.setattr(ending, "PAUSES_S", (0, 0, 30))
    engine = running(State.READY)
    dies(engine, fake)
    comes_back(engine)
    dies(engine, fake)
    ending.stop(engine.pk)
    engine.refresh_from_db()
    assert engine.state == State.STOPPING
    Engine.objects.filter(pk=engine.pk).update(state_since=timezone.now() - timedelta(seconds=31))
    ending.stop(engine.pk)
    engine.refresh_from_db()
    assert engine.state == State.PLACED


def test_not_where_the_settings_say_so_nor_where_it_is_to_stop(running, fake, setting):
    engine = running(State.READY)
    lifecycle.request_terminate(Engine.objects.get(pk=engine.pk), NOW, "alice")
    assert not restarting.has_died(engine, NOW, Diagnosis("x", "It died."))
    setting(engine_restarts=0)
    assert dies(running(State.READY), fake) == State.FAILED


def test_a_healthy_one_is_never_touched(served):
    engine, _ = served(State.READY)
    Engine.objects.filter(pk=engine.pk).update(port=engine.port)
    for _ in range(3):
        reconcile.reconcile(timezone.now())
        join_apart()
    engine.refresh_from_db()
    assert (engine.state, engine.generation, engine.restarts) == (State.READY, 1, 0)


def test_woken_from_its_sleep_it_begins_to_count_anew(engine_in):
    engine = engine_in(State.ASLEEP, restarts=3)
    assert waking.wake(engine, "alice")
    assert engine.restarts == 0


def test_a_killed_stand_in_serves_again(simulator, worker, client_of, alice):
    """By the reconciler alone."""
    launcher = simulator()
    client_of(alice).post("/vllm_request/start", {"Model": "acme/tiny"}, format="json")
    engine = Engine.objects.get()
    for pid in launcher._processes(launcher._directory(engine.container_name)):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: Engine.objects.get().generation == 2 and Engine.objects.get().state == State.READY)
    assert Engine.objects.get().restarts == 1
