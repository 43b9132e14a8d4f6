"""The process that downloads, with a hub on this machine and the real client's code."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from engines.downloads import process
from engines.downloads.folder import Download, Outcome, Progress
from engines.launchers.processes import processes_of
from tests.engines.downloads.conftest import CONTENT, MEBIBYTE, MODEL, SHARDS
from tests.fakes.hub import COMMIT, GOOD_TOKEN, POOR_TOKEN, FakeHub, listed
from tests.waiting import wait_until
from vllm_portal.config import PROJECT_ROOT, environment

SIZE = sum(map(len, CONTENT.values()))


def kill(download):
    """As the machine's memory would: at any moment, without a word."""
    (pid,) = processes_of(download.log.resolve())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not download.is_locked(), "the end of the killed process")


def test_what_vllm_reads_is_there_afterwards_as_the_real_client_wants_it(run, cached, hub, download):
    assert run() == Outcome()
    for path, content in CONTENT.items():
        assert (cached.repository / "snapshots" / COMMIT / path).read_bytes() == content
    whole = snapshot_download(
        MODEL, revision=COMMIT, cache_dir=cached.hub, local_files_only=True, allow_patterns=list(CONTENT)
    )
    assert Path(whole) == cached.repository / "snapshots" / COMMIT
    assert set(hub.sent) == set(CONTENT)
    assert {one.path for one in download.files()} == set(CONTENT)
    assert (download.progress().done, download.progress().total) == (SIZE, SIZE)


def test_what_is_there_is_not_fetched_again_nor_asked_for(run, hub):
    run()
    hub.asked.clear()
    assert run() == Outcome()
    assert hub.asked == []


def test_bytes_and_speed_are_told_while_it_goes_on(download, order, hub):
    hub.bytes_per_s = MEBIBYTE
    process.begin(download, order(), environment())
    seen = wait_until(lambda: (p := download.progress()).done > MEBIBYTE and p.bytes_per_s and p, "bytes and speed")
    assert (seen.total, seen.done < SIZE) == (SIZE, True)


def test_a_killed_one_is_gone_on_with_and_no_byte_comes_twice(run, download, order, hub, cached):
    """Not even the killed process' own: what it wrote is on the disk."""
    hub.bytes_per_s = 2 * MEBIBYTE
    for at in (MEBIBYTE // 2, MEBIBYTE, 2 * MEBIBYTE):
        process.begin(download, order(), environment())
        wait_until(lambda at=at: sum(cached.bytes_of(one) for one in _weights(hub)) > at, f"{at} bytes")
        kill(download)
    hub.bytes_per_s = 0
    assert run() == Outcome()
    for path in SHARDS:
        firsts = [first for asked, first in hub.asked if asked == path]
        assert firsts == sorted(firsts)
        assert firsts[-1] > 0
    assert (cached.repository / "snapshots" / COMMIT / SHARDS[0]).read_bytes() == CONTENT[SHARDS[0]]
    assert not list((cached.repository / "blobs").glob("*.incomplete"))


def _weights(hub):
    from engines.downloads.files import file

    return [file(path, len(CONTENT[path]), listed(path, CONTENT[path])["lfs"]["oid"]) for path in SHARDS]


def test_one_process_however_many_begin(download, order, hub):
    hub.bytes_per_s = MEBIBYTE
    for engine in ("e1-1", "e2-1", "e3-1"):
        process.begin(download, order(engine), environment())
    wait_until(lambda: processes_of(download.log.resolve()), "a process")
    assert len(processes_of(download.log.resolve())) == 1
    assert download.engine() == "e1-1"


def test_ended_it_leaves_what_came(download, order, hub, cached):
    hub.bytes_per_s = MEBIBYTE
    process.begin(download, order(), environment())
    wait_until(lambda: sum(hub.sent[path] for path in SHARDS) > MEBIBYTE, "a mebibyte")
    assert process.end(download)
    assert not download.is_locked()
    assert sum(cached.bytes_of(one) for one in _weights(hub)) > MEBIBYTE / 2


def test_a_connection_that_is_lost_is_taken_up_again(run, hub, cached):
    hub.cut_after = MEBIBYTE
    assert run() == Outcome()
    assert [first for path, first in hub.asked if path == SHARDS[0]] == [0, MEBIBYTE, 2 * MEBIBYTE]


def test_without_ranges_it_begins_anew_and_ends_right(run, hub, download, order, cached):
    hub.bytes_per_s = MEBIBYTE
    process.begin(download, order(), environment())
    wait_until(lambda: hub.sent[SHARDS[0]] > MEBIBYTE, "a mebibyte")
    kill(download)
    hub.bytes_per_s, hub.ranges = 0, False
    assert run() == Outcome()
    assert (cached.repository / "snapshots" / COMMIT / SHARDS[0]).read_bytes() == CONTENT[SHARDS[0]]
    assert download.progress().done == SIZE


def test_a_hub_that_wants_it_later_is_asked_later(run, hub):
    hub.troubles = [429, 503, 429, 500]
    assert run() == Outcome()
    assert not hub.troubles


@pytest.mark.parametrize(
    ("model", "token", "code"),
    [
        ("acme/gated", POOR_TOKEN, "model_gated"),
        ("acme/gated", "", "model_gated"),
        ("acme/private", "", "model_not_found"),
        ("acme/none", GOOD_TOKEN, "model_not_found"),
        ("acme/open", "hf_unknown", "token_invalid"),
    ],
)
def test_what_the_hub_refuses_has_its_code(tmp_path, order, hub, model, token, code):
    download = Download(tmp_path / "downloads", model, COMMIT)
    process.begin(download, order(token=token, name=model), environment())
    assert wait_until(lambda: download.outcome("e1-1"), "an outcome").code == code
    assert not hub.sent


def test_the_token_is_the_callers_and_in_no_file_argument_or_environment(download, order, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_whoever_runs_the_portal")
    hub.bytes_per_s = MEBIBYTE
    process.begin(download, order(token=GOOD_TOKEN), environment())
    wait_until(lambda: hub.sent[SHARDS[0]], "weights")
    (pid,) = processes_of(download.log.resolve())
    for name in ("cmdline", "environ"):
        content = Path(f"/proc/{pid}/{name}").read_bytes()
        assert GOOD_TOKEN.encode() not in content
        assert b"hf_of_whoever" not in content
        assert b"PORTAL_" not in content
    assert process.end(download)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or GOOD_TOKEN.encode() not in path.read_bytes()
    assert set(hub.tokens) == {GOOD_TOKEN}


def test_another_server_that_the_hub_leads_to_does_not_get_the_token(run, hub):
    elsewhere = FakeHub()
    elsewhere.files = hub.files
    hub.elsewhere = elsewhere.url
    try:
        assert run(token=GOOD_TOKEN) == Outcome()
        assert (set(elsewhere.tokens), set(elsewhere.sent)) == ({""}, set(CONTENT))
    finally:
        elsewhere.close()


@pytest.mark.parametrize("size", [MEBIBYTE, 4 * MEBIBYTE])
def test_a_hub_that_lies_about_a_size_is_believed_nothing(run, hub, size, cached):
    """One that sends more must not fill the disk, one that sends less is no whole model."""
    lie = listed(SHARDS[0], CONTENT[SHARDS[0]])
    hub.tells[SHARDS[0]] = {"size": size, "lfs": lie["lfs"] | {"size": size}}
    assert run().code == "weights_broken"
    assert not (cached.repository / "snapshots" / COMMIT / SHARDS[0]).exists()
    left = list((cached.repository / "blobs").glob("*.incomplete"))
    assert sum(path.stat().st_size for path in left) <= 4 * MEBIBYTE


def test_other_content_than_the_commits_is_no_model(run, hub, cached):
    hub.tells[SHARDS[1]] = {"lfs": listed(SHARDS[0], CONTENT[SHARDS[0]])["lfs"] | {"size": len(CONTENT[SHARDS[1]])}}
    assert run().code == "weights_broken"
    assert not (cached.repository / "snapshots" / COMMIT / SHARDS[1]).exists()


def test_what_an_engine_put_into_a_file_that_is_on_its_way_is_found_out(run, hub, cached):
    (one, _) = _weights(hub)
    cached.partial(one).parent.mkdir(parents=True)
    cached.partial(one).write_bytes(b"evil" * 1000)
    assert run() == Outcome()
    assert (cached.repository / "snapshots" / COMMIT / SHARDS[0]).read_bytes() == CONTENT[SHARDS[0]]


def test_a_link_that_an_engine_laid_is_not_followed(run, hub, cached, tmp_path):
    (one, _) = _weights(hub)
    cached.partial(one).parent.mkdir(parents=True)
    (tmp_path / "precious").write_text("mine")
    cached.partial(one).symlink_to(tmp_path / "precious")
    assert run().code == "cache_not_writable"
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("folder", ["blobs", f"snapshots/{COMMIT}"])
def test_a_folder_that_leads_out_of_the_cache_gets_nothing(run, cached, tmp_path, folder):
    outside = tmp_path / "outside"
    outside.mkdir()
    (cached.repository / folder).parent.mkdir(parents=True)
    (cached.repository / folder).symlink_to(outside)
    assert run().code == "cache_not_writable"
    assert not list(outside.iterdir())


def test_a_model_that_the_disk_has_no_room_for_is_refused_before_its_weights(run, hub):
    del hub.files["model.safetensors.index.json"]
    for number in range(2000):
        name = f"model-{number:05}.safetensors"
        hub.files[name] = b""
        hub.tells[name] = {"size": 49 * 10**9, "lfs": {"oid": f"{number:064}", "size": 49 * 10**9, "pointerSize": 130}}
    outcome = run()
    assert (outcome.code, "needs 98000.0 GB more" in outcome.words) == ("disk_full", True)
    assert not {path for path in hub.sent if path.endswith(".safetensors")}


def test_what_other_downloads_still_need_is_no_room(run, hub, tmp_path):
    other = Download(tmp_path / "downloads", "acme/other", COMMIT)
    other.path.mkdir(parents=True)
    other.write_progress(Progress(done=1, total=10**16))
    assert run() == Outcome()  # it does not live
    with other.locked() as lock:
        assert lock is not None
        hub.files["tokenizer.model"] = b"words"
        shutil.rmtree(tmp_path / "hf")
        shutil.rmtree(tmp_path / "downloads" / f"models--acme--open@{COMMIT}")
        outcome = run()
    assert (outcome.code, "other downloads still need 10000000.0 GB" in outcome.words) == ("disk_full", True)


ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=2g,mode=755 tmpfs "$1"
mkdir -p "$1/downloads/$2"
(until [ -e "$3/small" ]; do sleep 0.02; done
 for size in 2m 3m 4m 6m 8m; do mount -o remount,size=$size "$1" 2>/dev/null && break; done) &  # not below what came
"$4" -m engines.downloads <"$3/order"
find "$1" -name '*.incomplete' -size +0 | wc -l >"$3/left"
cp "$1/downloads/$2"/outcome-* "$3/outcome"
"""


def test_a_disk_that_fills_meanwhile_ends_it_and_what_came_stays(download, order, hub, tmp_path):
    """In a mount namespace of its own, all of it on a disk that becomes small while weights come."""
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    disk = tmp_path / "disk"
    disk.mkdir()
    given = order(cache=str(disk / "hf"), folder=str(disk / "downloads"))
    (tmp_path / "order").write_text(json.dumps(asdict(given)))
    arguments = [disk, download.path.name, tmp_path, sys.executable]
    script = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh", *map(str, arguments)]
    hub.bytes_per_s = 2 * MEBIBYTE
    ended = subprocess.Popen(
        script, cwd=PROJECT_ROOT, env=process._environment(given, environment()),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_until(lambda: hub.sent[SHARDS[0]] > MEBIBYTE / 2, "weights")
    (tmp_path / "small").touch()
    said, _ = ended.communicate(timeout=60)
    assert json.loads((tmp_path / "outcome").read_text())["code"] == "disk_full", said
    assert int((tmp_path / "left").read_text()) > 0
