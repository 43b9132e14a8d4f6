"""The worker looks at its engines also where neither broker nor beat tells it to."""

import os
import signal
import subprocess
import sys

import pytest

from engines import reconcile, rounds
from engines.launchers.ports import free_port
from tests.engines.conftest import wait_until
from tests.journeys.portal_process import ROOT, PortalProcess

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_round_is_made_where_none_came_for_too_long(monkeypatch, setting):
    setting(reconcile_seconds=2)
    made = []
    monkeypatch.setattr(reconcile, "reconcile", made.append)
    for late_s, rounds_made in ((0.0, 0), (4.9, 0), (5.1, 1)):
        monkeypatch.setattr(reconcile, "since_last_s", lambda late_s=late_s: late_s)
        rounds.look()
        assert len(made) == rounds_made


def test_what_goes_wrong_with_one_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(reconcile, "since_last_s", lambda: 99.0)
    monkeypatch.setattr(reconcile, "reconcile", lambda now: 1 / 0)
    assert rounds.look()
    assert "a round of the reconciler failed" in caplog.text


def test_any_round_counts(fake):
    reconcile.reconcile(rounds.timezone.now())
    assert reconcile.since_last_s() < 5


def test_a_worker_without_a_broker_brings_a_dead_engine_back(tmp_path):
    """A whole portal; then its worker alone, whose Redis is nowhere."""
    portal = PortalProcess(tmp_path, launcher="simulator", simulator_args="--simulate-start-seconds=0.1")
    worker = None
    try:
        alice = portal.start().admin().add_user("alice", "correct horse")
        alice.post("/vllm_request/start", Model="acme/tiny", HUGGING_FACE_HUB_TOKEN="None")
        portal.stop()
        environment = {
            **portal.environment,
            "PORTAL_REDIS_URL": f"redis://127.0.0.1:{free_port(taken=())}/0",
            "PORTAL_LAUNCHER": "simulator",
        }
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "vllm_portal", "worker", "--pool", "threads"],
                cwd=ROOT, env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        pid_file = next((tmp_path / "data").rglob("pid"))
        os.killpg(int(pid_file.read_text().split()[0]), signal.SIGKILL)

        def back():
            (engine,) = portal.database_rows("select state, generation from engines_engine")
            return engine == {"state": "READY", "generation": 2}

        wait_until(back, "the next generation", 60)
    finally:
        if worker is not None:
            worker.kill()
            worker.wait()
        portal.environment["PORTAL_STOP_ENGINES_ON_EXIT"] = "true"
        portal.start()
        assert portal.stop() == 0
