"""A model is downloaded while all around is killed: it comes whole, its bytes about once, and its engine comes up.

The engine is the stand-in under the name `vllm`; portal, hub's client and cache are real. `make test-attack KILLS=100`
makes it long."""

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest

from engines.downloads import folder
from engines.launchers.processes import processes_of
from tests.attack.fail_points import StandIns
from tests.attack.fail_points.life import MortalPortal
from tests.engines.downloads.conftest import CONTENT, MEBIBYTE, SHARDS, hub_with_model
from tests.fakes.hub import COMMIT, GOOD_TOKEN
from tests.journeys.portal_process import ROOT

KILLS = int(os.environ.get("KILLS", "5"))
SEED = 20261130
MODEL = "acme/gated"
SIZE = sum(map(len, CONTENT.values()))
STEPS = [
    "engines.lifecycle move>fetching before",
    "engines.lifecycle move>fetching after",
    "engines.downloads.process begin before",
    "engines.downloads.process begin after",
    "engines.lifecycle get_in_line before",
    "engines.lifecycle get_in_line after",
    "engines.lifecycle place before",
    "engines.lifecycle place after",
]
IN_THE_AIR = 3 * MEBIBYTE
"""Most that one kill may cost: what is sent and not written yet, of two files."""


@pytest.fixture
def hub():
    with hub_with_model() as hub:
        yield hub


@pytest.fixture
def portal(tmp_path, hub):
    vllm = tmp_path / "vllm"
    vllm.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={ROOT} exec {sys.executable} -m engines.simulator "$@"\n')
    vllm.chmod(0o755)
    portal = MortalPortal(
        tmp_path, launcher="process", vllm_executable=vllm, device="cpu", stop_engines_on_exit="true", hf_check="true",
        hf_endpoint=hub.url, hf_check_timeout_s=20, reconcile_seconds=0.3, download_stall_seconds=600,
    )  # fmt: skip
    yield portal.start()
    portal.stop()
    assert not any(download.is_locked() for download in folder.in_folder(tmp_path / "data" / "downloads"))


def state(admin, engine):
    return admin.get(f"/api/v1/engines/{engine['id']}").json()


def workers(portal):
    children = psutil.Process(portal.pid).children(recursive=True)
    return [child for child in children if "celery" in " ".join(child.cmdline()) and "worker" in child.cmdline()]


def downloads(portal):
    found = folder.in_folder(Path(portal.directory) / "data" / "downloads")
    return [pid for download in found for pid in processes_of(download.log.resolve())]


def test_whatever_is_killed_it_goes_on_where_it_was(portal, hub, tmp_path):
    admin, chance = portal.admin(), random.Random(SEED)
    hub.bytes_per_s = MEBIBYTE / max(4, KILLS / 3)  # so that it does not end before
    engine = admin.post("/api/v1/engines", model=MODEL, hugging_face_hub_token=GOOD_TOKEN).json()
    portal.wait_for(lambda: hub.sent[SHARDS[0]], 60, "weights")
    killed = 0
    while killed < KILLS:
        portal.wait_for(lambda: downloads(portal), 60, "a process that downloads")
        pids = downloads(portal) if chance.random() < 0.6 else [worker.pid for worker in workers(portal)]
        before = sum(hub.sent.values())
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
        portal.wait_for(lambda before=before: sum(hub.sent.values()) > before, 60, "more bytes")
    hub.bytes_per_s = 0
    portal.wait_for(lambda: state(admin, engine)["state"] == "READY", 120, "the engine to be ready")
    snapshot = tmp_path / "hf" / "hub" / "models--acme--gated" / "snapshots" / COMMIT
    assert {path: (snapshot / path).read_bytes() for path in CONTENT} == CONTENT
    assert sum(hub.sent.values()) < SIZE + killed * IN_THE_AIR
    told = state(admin, engine)
    assert (told["download"]["percent"], told["download"]["bytes_total"]) == (100, SIZE)
    assert [step["phase"] for step in told["timeline"]][:3] == ["queue", "download", "queue"]
    assert GOOD_TOKEN not in portal.console()


def test_wherever_a_process_dies_it_comes_up_once_and_leaves_nothing(portal, hub, tmp_path):
    admin = portal.admin()
    for step in STEPS:
        shutil.rmtree(tmp_path / "hf", ignore_errors=True)
        for path in (tmp_path / "data" / "downloads").glob("*.json"):
            path.unlink()
        hub.sent.clear()
        portal.die_at(step)
        engine = admin.post("/api/v1/engines", model=MODEL, hugging_face_hub_token=GOOD_TOKEN).json()
        portal.wait_for(lambda engine=engine: state(admin, engine)["state"] == "READY", 120, f"READY, died at {step}")
        assert not portal.point.exists()
        assert len(StandIns(portal).processes()) == 1
        assert sum(hub.sent.values()) < SIZE + IN_THE_AIR
        changes = [one["new_state"] for one in admin.get(f"/api/v1/engines/{engine['id']}/events").json()["results"]]
        assert changes == ["QUEUED", "FETCHING", "QUEUED", "PLACED", "STARTING", "LOADING", "READY"]
        admin.post("/vllm_request/terminate", container_id=state(admin, engine)["container_id"])
        portal.wait_for(lambda engine=engine: state(admin, engine)["state"] == "STOPPED", 30, "its end")


def test_two_of_one_model_share_it_and_both_come_up(portal, hub):
    admin = portal.admin()
    hub.bytes_per_s = MEBIBYTE
    engines = [admin.post("/api/v1/engines", model=MODEL, hugging_face_hub_token=GOOD_TOKEN).json() for _ in range(2)]
    portal.wait_for(
        lambda: all((state(admin, one)["download"] or {}).get("percent") for one in engines), 60, "progress"
    )
    assert len(downloads(portal)) == 1
    portal.wait_for(lambda: {state(admin, one)["state"] for one in engines} == {"READY"}, 120, "both to be ready")
    assert sum(hub.sent.values()) == SIZE


def test_a_terminate_ends_it_within_seconds(portal, hub, tmp_path):
    admin = portal.admin()
    hub.bytes_per_s = MEBIBYTE / 2
    engine = admin.post("/api/v1/engines", model=MODEL, hugging_face_hub_token=GOOD_TOKEN).json()
    portal.wait_for(lambda: hub.sent[SHARDS[0]] > MEBIBYTE, 60, "a mebibyte")
    answer = admin.post("/vllm_request/terminate", container_id=state(admin, engine)["container_id"])
    assert answer.json()["status"] == "terminated"
    portal.wait_for(lambda: not downloads(portal), 5, "the download's end")
    left = (tmp_path / "hf").rglob("*.incomplete")
    assert sum(path.stat().st_size for path in left) > MEBIBYTE / 2
