"""The worker looks at its engines also where neither broker nor beat tells it to."""

import os
import signal
import subprocess
import sys
import time

import pytest
from django.utils import timezone

from engines import reconcile, rounds, strays
from engines.launchers.ports import free_port
from tests.journeys.portal_process import ROOT, PortalProcess
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_round_is_made_where_none_came_for_too_long(monkeypatch, setting):
    setting(reconcile_seconds=2)
    monkeypatch.setattr(reconcile, "_began", float("-inf"))
    assert not rounds.Clock().look(), "the process has just begun"
    for late_s, made in ((0.0, False), (4.9, False), (5.1, True)):
        clock = clock_that_is_late(monkeypatch)
        monkeypatch.setattr(reconcile, "_began", time.monotonic() - late_s)
        assert clock.look() == made


def test_what_goes_wrong_with_one_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(reconcile, "refresh_gpus", lambda now: 1 / 0)
    assert clock_that_is_late(monkeypatch).look()
    assert "a round of the reconciler failed" in caplog.text


@pytest.mark.parametrize("fails", [False, True])
def test_alone_it_makes_them_as_often_and_says_so_once(monkeypatch, setting, caplog, fake, fails):
    setting(reconcile_seconds=2)
    if fails:
        monkeypatch.setattr(strays, "sweep", lambda: 1 / 0)
    clock = clock_that_is_late(monkeypatch)
    assert clock.look()
    for seconds, made in ((1.9, False), (0.2, True), (2.1, True)):
        passes(seconds, clock, monkeypatch)
        assert clock.look() == made
    assert caplog.text.count("no round of the reconciler comes from beat") == 1


def test_once_one_comes_again_it_waits_as_before(monkeypatch, setting, fake):
    setting(reconcile_seconds=2)
    clock = clock_that_is_late(monkeypatch)
    assert clock.look()
    reconcile.reconcile(timezone.now())
    for seconds, made in ((4.9, False), (0.2, True)):
        passes(seconds, clock, monkeypatch)
        assert clock.look() == made


def clock_that_is_late(monkeypatch):
    monkeypatch.setattr(reconcile, "_began", float("-inf"))
    clock = rounds.Clock()
    clock._since = float("-inf")
    return clock


def passes(seconds, clock, monkeypatch):
    """Time, without waiting for it."""
    alone = clock._made == reconcile.last_began()
    monkeypatch.setattr(reconcile, "_began", reconcile.last_began() - seconds)
    if alone:
        clock._made = reconcile.last_began()


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
