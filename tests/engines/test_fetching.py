"""An engine's model is fetched before it starts: decision 0026. With a hub on this machine and the real process."""

import os
import signal
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from django.urls import reverse
from django.utils import timezone

from engines import fetching, launching, lifecycle, queueing, reconcile, starts
from engines.downloads import folder, process, told
from engines.downloads.folder import Download, Outcome, Progress
from engines.launchers.processes import processes_of
from engines.models import Engine, Gpu, GpuLease
from engines.states import State
from tests.engines.conftest import join_apart
from tests.engines.downloads.conftest import CONTENT, MEBIBYTE, SHARDS, hub_with_model
from tests.fakes.hub import COMMIT, GOOD_TOKEN, OLD_COMMIT, POOR_TOKEN
from tests.waiting import wait_until
from vllm_portal.config import get_config

pytestmark = pytest.mark.django_db(transaction=True)

SIZE = sum(map(len, CONTENT.values()))


@pytest.fixture
def hub(setting, tmp_path):
    with hub_with_model() as hub:
        setting(hf_check=True, hf_endpoint=hub.url, hf_cache_dir=str(tmp_path / "hf"), data_dir=tmp_path)
        yield hub
        for download in folder.in_folder(tmp_path / "downloads"):
            assert process.end(download)


@pytest.fixture
def waiting(fake, engine_in):
    """waiting(**columns): an engine that was asked for."""
    return lambda **columns: engine_in(
        State.QUEUED, **{"model": "acme/open", "revision": COMMIT, "launcher": "process", **columns}
    )


def look(engine):
    launching.launch(engine.pk)
    engine.refresh_from_db()
    return engine.state


def until(state, *engines, seconds=40):
    wait_until(lambda: {look(engine) for engine in engines} == {state}, f"{state}", seconds)


def the_download():
    (download,) = folder.in_folder(get_config().data_dir / "downloads")
    return download


def kill(download):
    (pid,) = wait_until(lambda: processes_of(download.log.resolve()), "the process")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not download.is_locked(), "its end")


def snapshot(tmp_path):
    return tmp_path / "hf" / "hub" / "models--acme--open" / "snapshots" / COMMIT


def test_the_engine_starts_when_its_model_is_there(hub, waiting, fake, tmp_path):
    engine = waiting()
    assert (look(engine), fake.started) == (State.FETCHING, 0)
    until(State.LOADING, engine)
    assert (fake.started, len(hub.tokens)) == (1, len(CONTENT) + 1)  # each file and their list, once
    assert (snapshot(tmp_path) / SHARDS[0]).read_bytes() == CONTENT[SHARDS[0]]
    assert [event.new_state for event in engine.events.all()][1:] == [
        "FETCHING",
        "QUEUED",
        "PLACED",
        "STARTING",
        "LOADING",
    ]
    assert (engine.download["bytes_done"], engine.download["bytes_total"]) == (SIZE, SIZE)


def test_how_far_it_is_is_told_everywhere(hub, waiting, client_of, alice):
    hub.bytes_per_s = MEBIBYTE
    engine = waiting()

    def told():
        assert look(engine) == State.FETCHING
        body = client_of(alice).get(f"/api/v1/engines/{engine.pk}").json()
        return body if (body["download"] or {}).get("percent") and body["download"]["eta_s"] else None

    body = wait_until(told, "a number")
    download = body["download"]
    assert download["bytes_total"] == SIZE
    assert 0 < download["percent"] < 100
    assert download["bytes_per_s"] > 0
    assert body["detail"].startswith(f"downloading {download['percent']}%: ")
    assert "MB/s" in body["detail"]
    assert (body["timeline"][-1]["phase"], body["timeline"][-1]["detail"]) == ("download", body["detail"])


def test_the_page_and_the_cards_show_it(hub, waiting, client, alice):
    hub.bytes_per_s = MEBIBYTE / 4
    client.force_login(alice)
    engine = waiting()
    wait_until(lambda: look(engine) and (engine.download or {}).get("bytes_total"), "the size")
    for page in ("/", reverse("engine-page", args=[engine.pk])):
        text = client.get(page).content.decode()
        assert f'<progress max="{SIZE}" value="{engine.download["bytes_done"]}"' in text
        assert "downloading the model" in text


def test_what_is_cached_costs_no_step_and_no_question(hub, waiting):
    until(State.LOADING, waiting())
    hub.asked.clear()
    hub.tokens.clear()
    again = waiting()
    assert look(again) == State.LOADING
    assert "FETCHING" not in [event.new_state for event in again.events.all()]
    assert hub.tokens == []
    assert again.download is None


def test_two_engines_of_one_model_share_its_download(hub, waiting):
    hub.bytes_per_s = 2 * MEBIBYTE
    first, second = waiting(hf_token="hf_aliceHasAccess"), waiting()
    wait_until(lambda: (look(first), look(second)) and (second.download or {}).get("bytes_total"), "the size")
    assert len(processes_of(the_download().log.resolve())) == 1
    until(State.LOADING, first, second)
    assert sum(hub.sent.values()) == SIZE


def test_a_download_goes_on_without_a_worker_and_a_killed_one_where_it_was(hub, waiting):
    hub.bytes_per_s = 2 * MEBIBYTE
    engine = waiting()
    wait_until(lambda: look(engine) == State.FETCHING and engine.download.get("bytes_done", 0) > MEBIBYTE, "bytes")
    kill(the_download())
    until(State.LOADING, engine)
    assert sum(hub.sent.values()) < SIZE + 3 * MEBIBYTE  # what was on its way, and in pieces
    assert max(first for path, first in hub.asked if path == SHARDS[0]) > 0


def test_a_stop_ends_it_at_once_and_what_came_stays(hub, waiting, tmp_path, worker):
    hub.bytes_per_s = MEBIBYTE
    engine = waiting()
    wait_until(lambda: hub.sent[SHARDS[0]] > MEBIBYTE, "a mebibyte")
    download = the_download()
    lifecycle.request_terminate(Engine.objects.get(pk=engine.pk), timezone.now(), "alice")
    wait_until(lambda: Engine.objects.get(pk=engine.pk).state == State.STOPPED, "the stop", 10)
    wait_until(lambda: not download.is_locked(), "the end of the download", 10)
    wait_until(lambda: not download.path.exists(), "that its folder is put away", 10)
    left = list((tmp_path / "hf" / "hub" / "models--acme--open" / "blobs").glob("*.incomplete"))
    assert sum(path.stat().st_size for path in left) > MEBIBYTE / 2


def test_who_still_wants_it_goes_on_with_an_own_token_when_the_first_is_stopped(hub, waiting, worker):
    hub.bytes_per_s = 2 * MEBIBYTE
    first = waiting(hf_token=GOOD_TOKEN)
    wait_until(lambda: hub.sent[SHARDS[0]] > MEBIBYTE / 2, "bytes")
    second = waiting()
    hub.tokens.clear()
    lifecycle.request_terminate(Engine.objects.get(pk=first.pk), timezone.now(), "alice")
    wait_until(lambda: Engine.objects.get(pk=second.pk).state == State.LOADING, "the second", 40)
    assert hub.tokens[-1] == ""
    assert sum(hub.sent.values()) < SIZE + 4 * MEBIBYTE


@pytest.mark.parametrize(
    ("model", "token", "code"),
    [("acme/gated", POOR_TOKEN, "model_gated"), ("acme/private", "", "model_not_found"),
     ("acme/open", "hf_unknown", "token_invalid")],
)  # fmt: skip
def test_what_the_hub_refuses_fails_it_with_its_cause(hub, waiting, fake, model, token, code):
    engine = waiting(model=model, hf_token=token)
    until(State.FAILED, engine)
    assert (engine.cause_code, fake.started) == (code, 0)
    assert engine.advice
    assert token not in (engine.cause + engine.advice) or not token


def test_anothers_refusal_is_no_reason(hub, waiting):
    """bob may not read it, alice may: her engine tries by itself."""
    bobs, alices = (waiting(model="acme/gated", hf_token=token) for token in (POOR_TOKEN, GOOD_TOKEN))
    look(bobs)
    until(State.FAILED, bobs)
    until(State.LOADING, alices)


def test_a_full_disk_says_what_could_be_removed_and_not_whose_it_is(hub, waiting, tmp_path, caplog):
    unused = tmp_path / "hf" / "hub" / "models--bob--secret" / "blobs"
    unused.mkdir(parents=True)
    (unused / "x").write_bytes(bytes(MEBIBYTE))
    for number in range(2000):
        name = f"model-{number:05}.safetensors"
        hub.files[name] = b""
        hub.tells[name] = {"size": 49 * 10**9, "lfs": {"oid": f"{number:064}", "size": 49 * 10**9, "pointerSize": 130}}
    del hub.files["model.safetensors.index.json"]
    engine = waiting()
    until(State.FAILED, engine)
    assert (engine.cause_code, engine.change) == ("disk_full", {})
    assert "needs 98000.0 GB more" in engine.cause
    assert "no engine uses hold 1.0 MB" in engine.advice
    assert "secret" not in engine.cause + engine.advice
    assert "bob/secret (1.0 MB)" in caplog.text


class TestTime:
    def test_bytes_move_the_deadline(self, hub, waiting, setting):
        hub.bytes_per_s = MEBIBYTE
        setting(download_stall_seconds=3)
        engine = waiting()
        until(State.LOADING, engine)  # which takes longer than three seconds

    def test_none_for_so_long_is_a_failure(self, hub, waiting, setting):
        hub.bytes_per_s = 1
        setting(download_stall_seconds=2)
        engine = waiting()
        until(State.FAILED, engine)
        assert (engine.cause_code, engine.change) == ("stalled", {})
        assert "no progress for 2 s" in engine.cause

    def test_a_hub_that_goes_away_meanwhile_is_named_as_the_cause(self, hub, waiting, setting):
        hub.troubles = [503] * 1000
        setting(download_stall_seconds=4)
        engine = waiting()
        until(State.FAILED, engine)
        assert engine.cause_code == "hub_unreachable"
        assert "503" in engine.cause

    def test_what_came_while_no_worker_was_there_counts(self, hub, waiting, long_ago):
        """The deadline is over, and the model is there."""
        engine = waiting()
        look(engine)
        download = the_download()
        wait_until(lambda: not download.is_locked(), "its end")
        Engine.objects.filter(pk=engine.pk).update(deadline_at=long_ago)
        assert look(engine) == State.LOADING


class TestWhoFetches:
    @pytest.mark.parametrize(
        ("columns", "changed"),
        [
            ({"launcher": "simulator"}, {}),
            ({"revision": ""}, {}),
            ({"revision": "main"}, {}),
            ({"model": "/models/own"}, {}),
            ({}, {"hf_check": False}),
            ({}, {"hf_offline": True}),
            ({}, {"hf_download": False}),
            ({}, {"hf_cache_dir": "a-docker-volume"}),
            ({}, {"engine_extra_args": ["--load-format=bitsandbytes"]}),
            ({}, {"engine_extra_args": ["--download-dir", "/elsewhere"]}),
            ({}, {"engine_env": {"HF_HOME": "/elsewhere"}}),
        ],
    )
    def test_the_engine_where_the_portal_cannot_or_may_not(self, hub, waiting, setting, columns, changed):
        setting(**changed)
        assert look(waiting(**columns)) == State.LOADING
        assert hub.tokens == []

    def test_the_engine_where_its_container_is_on_another_machine(self, hub, waiting, monkeypatch):
        monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2376")
        assert look(waiting(launcher="docker")) == State.LOADING

    def test_the_engine_where_the_cache_is_not_the_portals_to_write(self, hub, waiting, tmp_path):
        blobs = tmp_path / "hf" / "hub" / "models--acme--open" / "blobs"
        blobs.parent.mkdir(parents=True)
        blobs.symlink_to(tmp_path)  # which root, too, may not write
        until(State.LOADING, waiting())

    def test_nobody_where_the_hub_is_away_and_the_cache_has_it(self, hub, waiting, tmp_path):
        until(State.LOADING, waiting())
        for path in (tmp_path / "downloads").glob("*.json"):
            path.unlink()  # as after an engine had downloaded it
        fetching.sweep()
        hub.trouble = 503
        until(State.LOADING, waiting(), seconds=60)

    def test_with_docker_both_it_and_the_image_come_before_the_place(self, hub, waiting):
        engine = waiting(launcher="docker")
        until(State.LOADING, engine)
        ways = [event.new_state for event in engine.events.all()]
        assert ways[1:] == ["FETCHING", "QUEUED", "PULLING", "QUEUED", "PLACED", "STARTING", "LOADING"]


def test_a_process_that_dies_again_and_again_leaves_it_to_the_engine(hub, waiting, monkeypatch):
    monkeypatch.setattr(fetching, "AGAIN_SECONDS", 0.0)
    hub.delay_s = 60
    engine = waiting()
    for _ in range(fetching.MOST_DEATHS + 1):
        assert look(engine) == State.FETCHING
        kill(the_download())
    assert look(engine) == State.LOADING


def test_the_rest_of_a_start_is_known_from_earlier_ones(hub, waiting, engine_in):
    now = timezone.now()
    earlier = engine_in(State.READY, model="acme/open", launcher="process")
    for number, event in enumerate(earlier.events.all()):
        event.at = now + timedelta(seconds=10 * number)
        event.save()
    hub.bytes_per_s = MEBIBYTE
    engine = waiting()
    wait_until(lambda: look(engine) and (engine.download or {}).get("eta_s"), "a speed")
    assert starts.eta_s(engine, now) == round(engine.download["eta_s"] + 20, 1)


def test_secrets_that_cannot_be_read_end_as_in_any_start(hub, waiting, fake):
    engine = waiting()
    Engine.objects.filter(pk=engine.pk).update(hf_token_encrypted="broken")
    assert look(engine) == State.STARTING
    assert (engine.detail.startswith("tries again: "), fake.started) == (True, 0)


def test_woken_it_tells_nothing_of_the_download_before(hub, engine_in):
    engine = engine_in(State.ASLEEP, download={"bytes_done": 5})
    assert lifecycle.wake(engine, timezone.now(), "alice")
    assert Engine.objects.get(pk=engine.pk).download is None


def test_the_portals_end_with_its_engines_ends_downloads(hub, waiting):
    hub.bytes_per_s = MEBIBYTE
    engine = waiting()
    wait_until(lambda: look(engine) and hub.sent[SHARDS[0]], "bytes")
    download = the_download()
    assert reconcile.stop_all(20)
    join_apart()
    assert not download.is_locked()


def test_what_is_kept_of_commits_that_nobody_asks_for_goes(hub, waiting, tmp_path):
    until(State.LOADING, waiting())
    wait_until(lambda: fetching.sweep() or not folder.in_folder(tmp_path / "downloads"), "that it is put away")
    (kept,) = (tmp_path / "downloads").iterdir()
    fetching.forget_old(timezone.now())
    assert kept.exists()
    fetching.forget_old(timezone.now() + timedelta(days=fetching.KEPT_DAYS + 1))
    assert not kept.exists()


def test_another_commit_is_another_download(tmp_path):
    first, second = (Download(tmp_path, "acme/open", commit) for commit in (COMMIT, OLD_COMMIT))
    first.path.mkdir()
    first.write_progress(Progress(1, 2))
    first.promise_outcome("e1")
    assert first.outcome("e1") is None
    first.write_outcome("e1", Outcome("disk_full"))
    assert first.outcome("e1") == Outcome("disk_full")
    assert (second.progress(), second.outcome("e1"), first.outcome("e2")) == (Progress(), None, None)
    assert Path(first.path).parent == Path(second.path).parent


class TestTheLine:
    """No GPU waits for a download, and who downloads loses its turn for no longer than that: decision 0030."""

    @pytest.fixture
    def gpu(self):
        return Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=timezone.now())

    @pytest.fixture
    def downloads(self, hub, waiting, monkeypatch, gpu):
        """An engine whose download takes hours, and says so."""
        hub.bytes_per_s = 1
        monkeypatch.setattr(queueing, "UNTOLD", timedelta(0))
        engine = waiting(device="cuda")
        assert look(engine) == State.FETCHING
        return engine

    def test_it_holds_no_gpu_and_is_overtaken(self, downloads, waiting, gpu):
        assert not GpuLease.objects.exists()
        assert downloads.lease_ends_at is None
        assert look(waiting(device="cuda", model="/models/own")) == State.LOADING

    def test_afterwards_it_comes_before_all_who_were_asked_for_later(self, hub, downloads, waiting, gpu):
        holder, later = (waiting(device="cuda", model="/models/own") for _ in range(2))
        assert (look(holder), look(later)) == (State.LOADING, State.QUEUED)
        hub.bytes_per_s = 0
        assert process.end(the_download())
        until(State.QUEUED, downloads)
        assert "waiting for 1 free GPU" in downloads.detail
        assert downloads.deadline_at is None
        places = queueing.of([downloads, later], timezone.now())
        assert (places[downloads.pk].position, places[later.pk].position) == (1, 2)
        lifecycle.request_terminate(holder, timezone.now(), "alice")
        lifecycle.stopped(holder, timezone.now())
        assert (look(later), look(downloads)) == (State.QUEUED, State.LOADING)

    @pytest.mark.parametrize(("eta_s", "waits"), [(60.0, True), (3600.0, False), (None, False)])
    def test_one_that_will_soon_be_there_is_waited_for(self, downloads, waiting, gpu, eta_s, waits):
        Engine.objects.filter(pk=downloads.pk).update(download={"bytes_done": 1, "bytes_total": 2, "eta_s": eta_s})
        later = waiting(device="cuda", model="/models/own")
        assert look(later) == (State.QUEUED if waits else State.LOADING)
        assert not waits or later.detail == "waiting for GPUs, behind engines that come first"

    def test_one_that_has_just_begun_is_waited_for_until_it_can_say(self, downloads, waiting, gpu, monkeypatch):
        later = waiting(device="cuda", model="/models/own")
        monkeypatch.setattr(queueing, "UNTOLD", timedelta(minutes=1))
        assert look(later) == State.QUEUED
        monkeypatch.setattr(queueing, "UNTOLD", timedelta(0))
        assert look(later) == State.LOADING

    def test_its_lease_begins_with_its_place(self, hub, waiting, gpu):
        engine = waiting(device="cuda", lease_hours=2)
        look(engine)
        assert engine.lease_ends_at is None
        until(State.LOADING, engine)
        placed = engine.events.get(new_state=State.PLACED).at
        assert engine.lease_ends_at == placed + timedelta(hours=2)

    def test_what_the_portal_cannot_fetch_is_left_to_the_engine_once(self, hub, waiting, tmp_path, gpu):
        """It does not go round and round."""
        blobs = tmp_path / "hf" / "hub" / "models--acme--open" / "blobs"
        blobs.parent.mkdir(parents=True)
        blobs.symlink_to(tmp_path)  # which root, too, may not write
        GpuLease.objects.create(gpu=gpu, engine=waiting(model="/models/own", device="cuda"))
        engine = waiting(device="cuda")
        until(State.QUEUED, engine)
        for _ in range(3):
            assert look(engine) == State.QUEUED
        assert [event.new_state for event in engine.events.all()].count("FETCHING") == 1
        assert told.of(engine.download) is None, "nobody is told of one"

    def test_one_that_has_its_place_keeps_it(self, hub, fake, engine_in, gpu):
        """Started afresh, and its files are gone."""
        columns = {"model": "acme/open", "revision": COMMIT, "launcher": "process", "device": "cuda"}
        engine = engine_in(State.PLACED, **columns)
        lease = GpuLease.objects.create(gpu=gpu, engine=engine)
        assert look(engine) == State.FETCHING
        assert list(Engine.objects.in_line(on_cpu=False)) == []
        with pytest.raises(ValueError, match="stay leased"):
            lifecycle.get_in_line(engine, timezone.now())
        until(State.LOADING, engine)
        assert GpuLease.objects.get() == lease

    def test_its_time_line_and_what_its_load_took(self, engine_in):
        now = timezone.now()
        engine = engine_in(State.QUEUED)
        assert lifecycle.move(engine, State.QUEUED, State.FETCHING, now)
        assert lifecycle.get_in_line(engine, now + timedelta(hours=1))
        assert lifecycle.place(engine, [], now + timedelta(hours=2))
        for hours, (old, new) in enumerate(pairwise([State.PLACED, State.STARTING, State.LOADING, State.READY]), 3):
            assert lifecycle.move(engine, old, new, now + timedelta(hours=hours))
        engine = Engine.objects.prefetch_related("events").get()
        steps = [step.phase for step in starts.timeline(engine)]
        assert steps == ["queue", "download", "queue", "start", "boot", "ready"]
        assert starts.load_s(engine) == 2 * 3600
