"""What engines compile is kept, for the next ones of the same owner and image alone."""

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from engines import compile_cache, launching, lifecycle, tasks
from engines.errors import LauncherError
from engines.launchers.container_config import DockerSettings, container_config
from engines.launchers.process import ProcessLauncher, ProcessSettings
from engines.models import Engine
from engines.states import State
from tests.fakes.launchers import raising
from tests.waiting import wait_until
from vllm_portal.secret_keys import portal_id

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def kept(setting, tmp_path):
    """kept(owner, name, days, size): a folder of that owner that was used last so many days ago."""
    setting(data_dir=tmp_path, hf_cache_dir=str(tmp_path / "hf"))

    def make(owner, name="a", days=0, size=10):
        folder = tmp_path / "compile-cache" / str(getattr(owner, "pk", owner)) / name
        (folder / "vllm").mkdir(parents=True)
        (folder / "vllm" / "graph").write_bytes(bytes(size))
        used = (timezone.now() - timedelta(days=days, hours=2)).timestamp()
        os.utime(folder, (used, used))
        return folder

    return make


def folder_of(engine):
    return launching.launch_spec(engine).compile_cache


def test_each_owner_image_and_device_has_its_own(kept, engine_in, people):
    one = {"launcher": "docker", "image": "acme/vllm:1"}
    folders = [
        folder_of(engine_in(**one)),
        folder_of(engine_in(**one, owner=people["bob"])),
        folder_of(engine_in(**{**one, "image": "acme/vllm:2"})),
        folder_of(engine_in(**one, device="cuda")),
        folder_of(engine_in(launcher="process")),
    ]
    assert len(set(folders)) == 5
    assert folder_of(engine_in(**one, model="acme/other")) == folders[0]
    assert all(Path(folder).parent.name == str(people["alice"].pk) for folder in folders[2:])


def test_its_path_has_nothing_that_a_client_chose(kept, engine_in):
    engine = engine_in(launcher="docker", image="../../etc/passwd:1")
    assert Path(folder_of(engine)).name.isalnum()


@pytest.mark.parametrize(
    ("columns", "changed"),
    [
        ({"launcher": "simulator"}, {}),
        ({"launcher": "process"}, {"compile_cache": False}),
        ({"launcher": "docker"}, {"hf_cache_dir": "a-docker-volume"}),
        ({"launcher": "docker"}, {"data_dir": Path("/with:colon")}),
    ],
)
def test_nothing_is_kept_where_it_cannot_or_may_not(kept, engine_in, setting, columns, changed):
    setting(**changed)
    assert folder_of(engine_in(**columns)) is None


def test_nor_without_an_owner(kept, engine_in):
    engine = engine_in(launcher="process")
    engine.owner = None
    assert compile_cache.folder_of(engine) is None


def test_a_start_makes_it_and_nobody_else_comes_to_it(kept, fake, engine_in, tmp_path):
    engine = engine_in(launcher="process")
    launching.launch(engine.pk)
    folder = Path(fake.containers[engine.container_name].spec.compile_cache)
    assert folder.is_dir()
    assert (tmp_path / "compile-cache").stat().st_mode & 0o077 == 0


def test_a_container_gets_it_mounted_and_vllm_is_told_where(kept, engine_in):
    spec = launching.launch_spec(engine_in(launcher="docker", image="acme/vllm:1"))
    body = container_config(spec, DockerSettings(portal_id="p", log_dir=Path("/x")))
    assert f"{spec.compile_cache}:/var/cache/vllm-portal" in body["HostConfig"]["Binds"]
    assert "VLLM_CACHE_ROOT=/var/cache/vllm-portal/vllm" in body["Env"]
    assert "TRITON_CACHE_DIR=/var/cache/vllm-portal/triton" in body["Env"]
    assert body["HostConfig"]["CapAdd"] == ["DAC_OVERRIDE"]


def test_what_the_operator_says_goes_before_it(kept, engine_in, setting):
    setting(engine_env={"VLLM_CACHE_ROOT": "/fast/disk"})
    spec = launching.launch_spec(engine_in(launcher="docker", image="acme/vllm:1"))
    body = container_config(spec, DockerSettings(portal_id="p", log_dir=Path("/x")))
    assert [entry for entry in body["Env"] if entry.startswith("VLLM_CACHE_ROOT")] == ["VLLM_CACHE_ROOT=/fast/disk"]


COMPILER = """#!/bin/sh
if [ -e "$VLLM_CACHE_ROOT/graph" ]; then cat "$VLLM_CACHE_ROOT/graph"; else echo compiles anew; fi
mkdir -p "$VLLM_CACHE_ROOT" && echo compiled by "$VLLM_API_KEY" >"$VLLM_CACHE_ROOT/graph"
"""


def test_the_next_generation_finds_what_the_one_before_compiled_and_another_user_does_not(
    kept, engine_in, people, tmp_path, monkeypatch
):
    command = tmp_path / "vllm"
    command.write_text(COMPILER)
    command.chmod(0o755)
    settings = ProcessSettings(
        portal_id(), tmp_path / "run", tmp_path / "logs", (str(command),), parent_environment=os.environ
    )
    launcher = ProcessLauncher(settings)

    def said(engine):
        spec = launching.launch_spec(engine)
        compile_cache.make(engine)
        launcher.start(spec)
        wait_until(lambda: launcher.poll(spec.name).exit_code == 0, "its end")
        launcher.stop(spec.name, 1)
        return launcher.logs(spec.name)

    engine = engine_in(launcher="process")
    assert said(engine) == "compiles anew\n"
    Engine.objects.filter(pk=engine.pk).update(generation=2)
    assert said(Engine.objects.get(pk=engine.pk)).startswith("compiled by ")
    assert said(engine_in(launcher="process", owner=people["bob"])) == "compiles anew\n"


class TestRemoval:
    def test_what_is_old_goes_and_the_rest_stays(self, kept, alice, setting):
        setting(compile_cache_days=30)
        old, fresh = kept(alice, "old", days=31), kept(alice, "fresh", days=29)
        tasks.delete_old_logs()
        assert (old.exists(), fresh.exists()) == (False, True)

    def test_what_is_too_much_goes_the_longest_unused_first(self, kept, alice, bob, setting):
        setting(compile_cache_gib=1)
        folders = [kept(owner, "a", days=days) for owner, days in ((alice, 3), (bob, 2))]
        third = kept(alice, "b", days=1)
        for folder in (*folders, third):
            with (folder / "large").open("wb") as file:
                file.truncate(400 << 20)
            used = folder.stat().st_mtime
            os.utime(folder, (used, used))
        for folder, days in zip((*folders, third), (3, 2, 1), strict=True):
            used = (timezone.now() - timedelta(days=days)).timestamp()
            os.utime(folder, (used, used))
        assert compile_cache.delete_old(timezone.now()) == 1
        assert [folder.exists() for folder in (*folders, third)] == [False, True, True]

    def test_that_of_an_engine_that_is_awake_stays(self, kept, alice, engine_in, setting):
        engine = engine_in(State.READY, launcher="process")
        folder = kept(alice, Path(folder_of(engine)).name, days=400)
        assert compile_cache.delete_old(timezone.now()) == 0
        assert lifecycle.request_terminate(engine, timezone.now(), "alice")
        assert lifecycle.stopped(engine, timezone.now())
        assert compile_cache.delete_old(timezone.now()) == 1
        assert not folder.exists()

    def test_what_was_used_this_hour_stays_also_where_it_is_too_much(self, kept, alice, setting):
        folder = kept(alice)
        os.utime(folder)
        setting(compile_cache=False)
        assert compile_cache.delete_old(timezone.now()) == 0

    def test_that_of_a_user_who_is_gone_goes(self, kept, alice):
        mine, gone = kept(alice), kept(987654)
        assert compile_cache.delete_old(timezone.now()) == 1
        assert (mine.exists(), gone.exists()) == (True, False)

    def test_switched_off_nothing_is_left(self, kept, alice, setting, tmp_path):
        kept(alice)
        (tmp_path / "compile-cache" / ".removed-by-one-that-died").mkdir()
        setting(compile_cache=False)
        compile_cache.delete_old(timezone.now())
        assert not list((tmp_path / "compile-cache").glob(".removed-*"))
        assert not list((tmp_path / "compile-cache" / str(alice.pk)).iterdir())

    def test_links_that_an_engine_laid_are_not_followed(self, kept, alice, setting, tmp_path):
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "file").write_text("mine")
        folder = kept(alice, days=400)
        (folder / "vllm" / "link").symlink_to(tmp_path / "precious")
        assert compile_cache.delete_old(timezone.now()) == 1
        assert (tmp_path / "precious" / "file").read_text() == "mine"


class TestWhatContainersWroteAsRoot:
    """And the portal runs as another user."""

    @pytest.fixture
    def roots(self, kept, alice, monkeypatch):
        """A folder of which the portal's user can remove but the files at its top."""
        folder, real = kept(alice, days=400), shutil.rmtree
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "vllm")
        monkeypatch.setattr(shutil, "rmtree", lambda path, **_: any(path.iterdir()) or path.rmdir())
        yield folder
        monkeypatch.undo()
        real(folder, ignore_errors=True)

    @pytest.fixture
    def asides(self, tmp_path):
        return lambda: list((tmp_path / "compile-cache").glob(".removed-*"))

    def test_a_container_of_an_engines_image_removes_it(self, roots, asides, fake, engine_in, tmp_path):
        engine_in(State.STOPPED, launcher="docker", image="gone:1")
        engine_in(State.STOPPED, launcher="docker", image="here:1")
        fake.images.add("here:1")
        fake.before_empty = emptied
        assert compile_cache.delete_old(timezone.now()) == 1
        assert (roots.exists(), asides(), fake.calls) == (False, [], ["empty by here:1"])

    @pytest.mark.parametrize("lacks", [lambda image: True, raising(LauncherError("no daemon"))])
    def test_without_one_it_stays_whole_and_the_operator_is_told(self, roots, fake, engine_in, caplog, lacks):
        engine_in(State.STOPPED, launcher="docker", image="gone:1")
        fake.lacks = lacks
        assert compile_cache.delete_old(timezone.now()) == 0
        assert (roots / "vllm" / "graph").exists()
        assert f"as root: rm -r {roots}" in caplog.text

    def test_one_that_fails_leaves_it_to_the_next(self, roots, asides, fake, engine_in, caplog):
        engine_in(State.STOPPED, launcher="docker", image="here:1")
        fake.images.add("here:1")
        fake.before_empty = raising(LauncherError("no daemon"))
        assert compile_cache.delete_old(timezone.now()) == 0
        (aside,) = asides()
        assert f"as root: rm -r {aside}" in caplog.text
        fake.before_empty = emptied
        compile_cache.delete_old(timezone.now())
        assert asides() == []


def emptied(folder):
    """As root."""
    for path in sorted(Path(folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
