"""What the Hugging Face cache holds, and how a model goes out of it."""

import os
import shutil
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from engines import model_cache
from engines.models import Engine
from engines.states import State
from vllm_portal.errors import Conflict, NotFound

pytestmark = pytest.mark.django_db

CACHED = "/api/v1/cached-models"
COMMIT = "c0ffee" * 6 + "c0ff"


@pytest.fixture
def hub(tmp_path, setting):
    setting(hf_cache_dir=str(tmp_path / "hf"))
    hub = tmp_path / "hf" / "hub"
    hub.mkdir(parents=True)
    return hub


@pytest.fixture
def cached(hub):
    """cached(name, *sizes): its folder, with a blob of each size and a link to it, as huggingface_hub keeps them."""

    def make(name, *sizes):
        folder = hub / f"models--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (folder / "blobs").mkdir()
        for number, size in enumerate(sizes):
            (folder / "blobs" / f"b{number}").write_bytes(bytes(size))
            (snapshot / f"file{number}").symlink_to(f"../../blobs/b{number}")
        return folder

    return make


def test_each_model_is_listed_with_what_it_takes(cached, engine_in):
    small = cached("acme/small", 10)
    cached("acme/large", 1000, 500)
    (small / "blobs" / "cafe.incomplete").write_bytes(bytes(90))
    engine = engine_in(State.READY, model="acme/large")
    engine_in(State.FAILED, model="acme/small")
    large, small = model_cache.listed()
    assert large == ("acme--large", "acme/large", 1500, 0, [COMMIT], [engine.name], engine.created_at)
    assert (small.size_bytes, small.unfinished_bytes, small.engines) == (100, 90, [])
    assert small.started_at is not None


def test_what_is_no_model_is_left_out(hub, cached, tmp_path):
    for name in ("datasets--acme--data", "models--..", "models--a--b--c", ".locks", "models--"):
        (hub / name).mkdir()
    (hub / "models--acme--file").write_text("")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (hub / "models--acme--link").symlink_to(elsewhere)
    cached("gpt2")
    assert [one.model for one in model_cache.listed()] == ["gpt2"]


def test_links_to_elsewhere_are_not_counted(cached, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(5000))
    (cached("acme/tiny", 7) / "blobs" / "away").symlink_to(secret)
    (cached("acme/other", 6) / "blobs" / "folder").symlink_to(tmp_path)
    assert [one.size_bytes for one in model_cache.listed()] == [7, 6]


def test_no_cache_yet_holds_nothing(setting, tmp_path):
    setting(hf_cache_dir=str(tmp_path / "later"))
    assert model_cache.listed() == []
    assert model_cache.disk().free_bytes > 0


def test_a_volume_cannot_be_looked_into(setting, client_of, root):
    setting(hf_cache_dir="models")
    answer = client_of(root).get(CACHED)
    assert answer.status_code == 409
    assert "Docker volume models" in answer.json()["detail"]


def test_a_model_that_is_removed_is_gone_and_what_was_left_aside_too(hub, cached):
    cached("acme/tiny", 7)
    cached("acme/other", 7)
    (hub / ".removed-0").mkdir()
    assert model_cache.remove("acme--tiny", timezone.now()).size_bytes == 7
    assert {path.name for path in hub.iterdir()} == {"models--acme--other", ".removed-0"}, "somebody may be at it"
    model_cache.remove("acme--other", timezone.now() + timedelta(minutes=6))
    assert list(hub.iterdir()) == []


def test_who_is_later_is_told(cached, monkeypatch):
    folder = cached("acme/tiny")

    def too_late(path, target):
        shutil.rmtree(folder)
        os.rename(path, target)

    monkeypatch.setattr(model_cache.Path, "rename", too_late)
    with pytest.raises(Conflict, match="No such file"):
        model_cache.remove("acme--tiny", timezone.now())


def test_what_a_removed_model_links_to_stays(cached, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("")
    (cached("acme/tiny") / "snapshots" / "away").symlink_to(kept)
    model_cache.remove("acme--tiny", timezone.now())
    assert (kept / "file").exists()


@pytest.mark.parametrize("identity", ["acme--none", "..", "../x", "", "acme--tiny/snapshots"])
def test_what_is_not_there_is_not_removed(cached, identity):
    folder = cached("acme/tiny")
    with pytest.raises(NotFound):
        model_cache.remove(identity, timezone.now())
    assert folder.exists()


@pytest.mark.parametrize("columns", [{"model": "acme/tiny"}, {"model": "acme/else", "tokenizer": "acme/tiny"}])
@pytest.mark.parametrize("state", [State.QUEUED, State.LOADING, State.READY, State.STOPPING])
def test_it_stays_while_an_engine_has_it(cached, engine_in, state, columns):
    folder = cached("acme/tiny", 7)
    engine = engine_in(state, **columns)
    with pytest.raises(Conflict, match=engine.name):
        model_cache.remove("acme--tiny", timezone.now())
    assert (folder / "blobs" / "b0").exists()


def test_a_sleeping_engine_downloads_it_again(cached, engine_in):
    folder = cached("acme/tiny")
    Engine.objects.filter(pk=engine_in(State.READY, model="acme/tiny").pk).update(state=State.ASLEEP, desired="sleep")
    model_cache.remove("acme--tiny", timezone.now())
    assert not folder.exists()


def test_an_engine_that_comes_meanwhile_finds_all_of_it(cached, engine_in, monkeypatch):
    folder = cached("acme/tiny", 7)
    rename = model_cache.Path.rename

    def with_a_start(path, target):
        rename(path, target)
        monkeypatch.setattr(model_cache.Path, "rename", rename)
        engine_in(State.QUEUED, model="acme/tiny")

    monkeypatch.setattr(model_cache.Path, "rename", with_a_start)
    with pytest.raises(Conflict):
        model_cache.remove("acme--tiny", timezone.now())
    assert (folder / "blobs" / "b0").exists()


def test_where_the_portal_may_not_delete_all_of_it_stays(cached, monkeypatch):
    folder = cached("acme/tiny", 7)
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder / "blobs")
    with pytest.raises(Conflict, match="rm -r"):
        model_cache.remove("acme--tiny", timezone.now())
    assert (folder / "blobs" / "b0").exists()


def test_admins_see_and_remove_by_api(cached, client_of, root, alice):
    cached("acme/tiny", 7)
    page = client_of(root).get(CACHED).json()
    assert [one["id"] for one in page["results"]] == ["acme--tiny"]
    assert page["disk"]["free_bytes"] > 0
    assert client_of(root).get(f"{CACHED}/acme--tiny").json()["size_bytes"] == 7
    assert client_of(alice).delete(f"{CACHED}/acme--tiny").status_code == 403
    assert client_of(root).delete(f"{CACHED}/acme--tiny").status_code == 204
    assert client_of(root).delete(f"{CACHED}/acme--tiny").status_code == 404
    (entry,) = LogEntry.objects.all()
    assert str(entry.object_repr) == "cached model acme/tiny"


def test_admins_see_and_remove_on_a_page(cached, client, root, alice, engine_in):
    cached("acme/tiny", 7)
    cached("acme/used", 7)
    engine = engine_in(State.READY, model="acme/used")
    client.force_login(root)
    page = client.get("/admin/cached-models/").content.decode()
    assert "acme/tiny" in page
    assert engine.name in page
    assert page.count("Remove</button>") == 1
    page = client.post("/admin/cached-models/remove/", {"id": "acme--used"}, follow=True).content.decode()
    assert "is in use by" in page
    page = client.post("/admin/cached-models/remove/", {"id": "acme--tiny"}, follow=True).content.decode()
    assert "acme/tiny is out of the cache" in page
    client.force_login(alice)
    assert client.get("/admin/cached-models/").status_code == 302
    assert client.post("/admin/cached-models/remove/", {"id": "acme--used"}).status_code == 302
    assert [one.model for one in model_cache.listed()] == ["acme/used"]
