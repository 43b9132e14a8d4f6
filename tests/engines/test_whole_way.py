"""Start, use and end an engine through the API, with the stand-in engine as a real process and no hint arriving."""

import pytest
import requests

from engines import hints, tasks
from engines.launchers.base import Status
from engines.models import Engine
from engines.states import State
from tests.waiting import wait_until
from vllm_portal.encryption import decrypt

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_restarts")]

START, TERMINATE = "/vllm_request/start", "/vllm_request/terminate"


def test_an_engine_comes_up_answers_and_ends(simulator, worker, client_of, alice):
    launcher = simulator()
    api = client_of(alice)
    started = api.post(START, {"Model": "acme/tiny", "MAX_MODEL_LEN": 256}, format="json")
    body = started.json()
    assert (started.status_code, body["status"], body["message"]) == (200, "healthy", "The engine is ready.")
    (listed,) = api.get("/active_models/").json()
    assert (listed["container_id"], listed["max_model_length"]) == (body["container_id"], 256)
    engine = Engine.objects.get()
    answer = requests.post(
        f"http://{engine.host}:{engine.port}/v1/completions",
        json={"model": engine.name, "prompt": "Hi", "max_tokens": 2},
        headers={"authorization": f"Bearer {decrypt(engine.engine_key_encrypted)}"},
        timeout=10,
    )
    assert answer.status_code == 200
    assert "Application startup complete" in api.get(f"/vllm_request/engines/{engine.pk}/logs").json()["log"]
    ended = api.post(TERMINATE, {"container_id": body["container_id"]}, format="json")
    assert (ended.status_code, ended.json()["status"]) == (200, "terminated")
    assert launcher.poll(engine.container_name).status is Status.GONE
    assert api.get("/active_models/").json() == []
    assert api.post(TERMINATE, {"container_id": body["container_id"]}, format="json").status_code == 200


def test_the_portals_probe_is_all_that_the_engine_counted(simulator, worker, client_of, alice):
    simulator()
    client_of(alice).post(START, {"Model": "acme/tiny"}, format="json")
    engine = Engine.objects.get()
    metrics = requests.get(f"http://{engine.host}:{engine.port}/metrics", timeout=10).text
    counted = {
        line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if "_tokens_total{" in line
    }
    assert counted["vllm:prompt_tokens_total"] == engine.probe_prompt_tokens > 0
    assert counted["vllm:generation_tokens_total"] == engine.probe_generated_tokens == 1


@pytest.mark.parametrize(
    ("cause", "words"),
    [("max-model-len", "MAX_MODEL_LEN"), ("gated", "gated"), ("kv-cache", "256"), ("silent", "did not say why")],
)
def test_an_engine_that_fails_says_why_and_leaves_its_log(simulator, worker, client_of, alice, cause, words):
    launcher = simulator("--simulate-start-failure", cause)
    api = client_of(alice)
    answer = api.post(START, {"Model": "acme/tiny"}, format="json")
    assert (answer.status_code, answer.json()["status"]) == (200, "unhealthy")
    assert words in answer.json()["message"]
    assert launcher.list() == []
    log = api.get(f"/vllm_request/engines/{answer.json()['engine_id']}/logs").json()["log"]
    assert "non-default args" in log


def test_a_failed_start_is_started_once_more_with_the_change_that_it_names(simulator, worker, client_of, alice):
    simulator("--simulate-start-failure", "kv-cache")
    api = client_of(alice)
    api.post(START, {"Model": "acme/tiny", "MAX_MODEL_LEN": 4096}, format="json")
    failed = api.get(f"/api/v1/engines/{Engine.objects.get().pk}").json()
    assert (failed["cause_code"], failed["change"]) == ("kv_cache_too_small", {"max_model_len": 256})
    assert [step["phase"] for step in failed["timeline"]][-1] == "load"
    simulator()
    address = api.post(f"/api/v1/engines/{failed['id']}/retry", {}, format="json")["Location"]
    wait_until(lambda: api.get(address).json()["state"] == State.READY)
    ready = api.get(address).json()
    assert ready["max_model_len"] == 256
    assert [step["phase"] for step in ready["timeline"]][-1] == "ready"


def test_an_engine_that_is_killed_while_it_serves_has_failed(simulator, worker, client_of, alice, state_of):
    import os
    import signal

    launcher = simulator()
    client_of(alice).post(START, {"Model": "acme/tiny"}, format="json")
    engine = Engine.objects.get()
    pid = int((launcher._runtime_dir / engine.container_name / "pid").read_text())
    os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: state_of(engine) == State.FAILED)
    assert Engine.objects.get().cause


def test_an_engine_that_hangs_while_it_loads_has_failed_in_time(simulator, worker, client_of, alice, setting):
    setting(load_stall_seconds=1)
    simulator("--simulate-start-hangs")
    answer = client_of(alice).post(START, {"Model": "acme/tiny"}, format="json")
    assert answer.json()["status"] == "unhealthy"
    assert "no progress" in answer.json()["message"]


def test_the_tasks_alone_bring_it_up_and_end_it(simulator, client_of, alice, monkeypatch):
    """As Celery would run them, one hint after the other."""
    simulator()
    hinted = []
    monkeypatch.setattr(hints, "send", lambda task, engine_id, in_s=0.0: hinted.append((task, str(engine_id))))
    client_of(alice).post(START, {"Model": "acme/tiny", "wait": False}, format="json")

    def work():
        while hinted:
            task, engine_id = hinted.pop(0)
            getattr(tasks, task.rsplit(".", 1)[1])(engine_id)
            if Engine.objects.get().state in (State.READY, State.STOPPED):
                return True
        return False

    wait_until(work)
    assert Engine.objects.get().state == State.READY
    assert hinted == [], "once it is ready nobody needs to look quickly"
    assert client_of(alice).get("/active_models/").json()
    monkeypatch.setitem(__import__("vllm_portal.config").config.get_config().__dict__, "stop_wait_seconds", 0)
    client_of(alice).post(TERMINATE, {"container_id": Engine.objects.get().container_id}, format="json")
    wait_until(work)
    assert Engine.objects.get().state == State.STOPPED


@pytest.mark.parametrize("task", [tasks.launch_engine, tasks.stop_engine, tasks.check_engine])
def test_a_task_for_what_is_no_more_does_nothing(db, task):
    task("9e107d9d-372b-4c1d-8f4a-3e2f5d1c0b07")


def test_the_tasks_have_the_names_that_hints_and_beat_use():
    names = {task.name for task in (tasks.launch_engine, tasks.stop_engine, tasks.check_engine, tasks.reconcile)}
    assert names == {f"engines.tasks.{name}" for name in ("launch_engine", "stop_engine", "check_engine", "reconcile")}
