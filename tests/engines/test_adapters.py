"""LoRA adapters as a start option: what is taken, where their files come from, what vLLM is told."""

import json
from itertools import pairwise

import pytest

from engines import adapters, fetching, launching, lifecycle, model_cache, recipes, starting, starts
from engines.adapters import Adapter
from engines.downloads import process
from engines.downloads.folder import Download, in_folder
from engines.launchers.container_config import DockerSettings, container_config
from engines.models import Engine, StartMeasure
from engines.states import State
from tests.engines.conftest import NOW
from tests.engines.fit.tiny import safetensors
from tests.fakes.hub import COMMIT, GOOD_TOKEN, OLD_COMMIT, POOR_TOKEN, FakeHub
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = "/api/v1/engines"
CONFIG = json.dumps({"peft_type": "LORA", "r": 24, "lora_alpha": 8, "target_modules": ["q_proj"]}).encode()
SQL = {"name": "sql", "model": "acme/open"}


@pytest.fixture
def hub(setting, tmp_path):
    """Whose repositories all hold an adapter."""
    hub = FakeHub()
    hub.files = {adapters.CONFIG: CONFIG, adapters.WEIGHTS: safetensors(a=[1, 1]), "adapter_model.bin": b"pickled"}
    setting(
        hf_check=True, hf_endpoint=hub.url, hf_check_timeout_s=10.0, hf_cache_dir=str(tmp_path / "hf"),
        data_dir=tmp_path,
    )  # fmt: skip
    yield hub
    for download in in_folder(tmp_path / "downloads"):
        assert process.end(download)
    hub.close()


@pytest.fixture
def folder(setting, tmp_path):
    """An adapter's folder that the admin allows."""
    path = tmp_path / "roots" / "law"
    path.mkdir(parents=True)
    (path / adapters.CONFIG).write_bytes(CONFIG)
    (path / adapters.WEIGHTS).write_bytes(safetensors(a=[1, 1]))
    setting(allowed_model_roots=[tmp_path / "roots"])
    return path


@pytest.fixture
def start(client_of, people):
    """start(*adapters, **fields): the answer, to alice."""
    client = client_of(people["alice"])

    def make(*given, **fields):
        return client.post(ENGINES, {"model": "acme/tiny-base", "adapters": given, **fields}, format="json")

    return make


def newest() -> Engine:
    return Engine.objects.latest("created_at")


def told(engine) -> dict:
    """What vLLM is told of adapters, by flag; of the modules the JSON."""
    argv = launching.launch_spec(engine).argv
    flags = {name: value for name, value in pairwise(argv) if "lora" in name}
    if "--lora-modules" in argv:
        begin = argv.index("--lora-modules") + 1
        flags["--lora-modules"] = [json.loads(word) for word in argv[begin : begin + len(engine.adapters)]]
    return flags


# What is taken


def test_an_adapter_is_fixed_to_a_commit(hub, start):
    gated = {"name": "old", "model": "acme/gated", "revision": "v1"}
    answer = start(SQL, gated, model="acme/open", hugging_face_hub_token=GOOD_TOKEN)
    assert (answer.status_code, answer.json()["adapters"]) == (
        202, [{**SQL, "revision": COMMIT}, {**gated, "revision": OLD_COMMIT}],
    )  # fmt: skip


def test_vllm_is_told_in_json(hub, start):
    start(SQL, model="acme/open")
    engine = newest()
    assert told(engine) == {
        "--enable-lora": "--max-loras", "--max-loras": "1", "--max-lora-rank": "16",
        "--lora-modules": [{"name": "sql", "path": "acme/open", "base_model_name": "acme/open"}],
    }  # fmt: skip
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in launching.launch_spec(engine).env


def test_an_engine_without_adapters_has_no_flags_for_them(start):
    start()
    assert told(newest()) == {}


def test_a_folder_is_one_too_and_its_rank_is_read(folder, start):
    assert start({"name": "law", "model": str(folder)}).json()["adapters"][0]["model"] == str(folder.resolve())
    assert told(newest())["--max-lora-rank"] == "32"
    spec = launching.launch_spec(newest())
    assert spec.adapter_dirs == (str(folder.resolve()),)


def test_a_link_out_of_the_allowed_roots_is_none(folder, start, tmp_path):
    outside = tmp_path / "outside"
    folder.rename(outside)
    folder.symlink_to(outside)
    assert start({"name": "law", "model": str(folder)}).status_code == 400


@pytest.mark.parametrize(
    ("adapter", "word"),
    [
        ({"name": "a/b", "model": "acme/open"}, "64 letters"), ({"name": "a:b", "model": "acme/open"}, "64 letters"),
        ({"name": "-x", "model": "acme/open"}, "64 letters"), ({"name": "sql", "model": "../x"}, "repository"),
        ({"name": "sql", "model": "--x"}, "repository"), ({**SQL, "revision": "v9"}, "v9"),
        ({"name": "sql", "model": "acme/open", "revision": "-x"}, "branch"),
        ({"name": "sql", "model": "acme/none"}, "acme/none"), ({"name": "sql", "model": "/etc"}, "an admin allows"),
        ({"name": "sql", "model": "/nowhere", "revision": "v1"}, "no revisions"),
    ],
)  # fmt: skip
def test_what_is_no_adapter_is_refused_by_its_field(hub, start, adapter, word):
    answer = start(adapter, model="acme/open")
    assert (answer.status_code, list(answer.json())) == (400, ["adapters"])
    assert word in answer.json()["adapters"][0]
    assert not Engine.objects.exists()


@pytest.mark.parametrize("given", ["sql", [7], [{"name": "sql"}], [{"model": "acme/open"}], [{"name": 7, "model": 7}]])
def test_what_is_no_list_of_adapters(client_of, alice, given):
    answer = client_of(alice).post(ENGINES, {"model": "acme/tiny", "adapters": given}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["adapters"])


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ([SQL, SQL], "there twice"),
        ([SQL, {**SQL, "name": "old", "revision": "v1"}], "acme/open is there twice"),
        ([{**SQL, "name": "gpt2"}], "the model"),
        ([{"name": f"a{number}", "model": f"acme/a{number}"} for number in range(9)], "no more than 8"),
    ],
)
def test_what_cannot_be_together(start, given, word):
    assert word in str(start(*given, model="gpt2").json()["adapters"])


def test_a_name_that_the_ledger_could_not_hold_is_refused(folder, setting, tmp_path, start):
    deep = tmp_path / "roots" / ("x" * 100) / ("y" * 100)
    deep.parent.mkdir()
    folder.rename(deep)
    answer = start({"name": "law", "model": str(deep)}, model=f"acme/{'z' * 90}")
    assert "too long together" in answer.json()["adapters"][0]


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({adapters.CONFIG: CONFIG}, adapters.WEIGHTS),
        ({adapters.WEIGHTS: b"x"}, adapters.CONFIG),
        ({adapters.CONFIG: b"[]", adapters.WEIGHTS: b"x"}, "no JSON object"),
        ({adapters.CONFIG: b"{", adapters.WEIGHTS: b"x"}, "no JSON"),
        ({adapters.CONFIG: b'{"r": 1000}', adapters.WEIGHTS: b"x"}, "1000"),
        ({adapters.CONFIG: b'{"peft_type": "IA3"}', adapters.WEIGHTS: b"x"}, "no LoRA adapter"),
    ],
)
def test_a_repository_that_holds_none_is_told_before_the_start(hub, start, files, word):
    hub.files = files
    answer = start(SQL, model="acme/open")
    assert (answer.status_code, word in answer.json()["adapters"][0]) == (400, True)


def test_a_gated_one_needs_a_token_that_may_see_it(hub, start):
    gated = {"name": "sql", "model": "acme/gated"}
    for token, status in (("", 400), (POOR_TOKEN, 400), (GOOD_TOKEN, 202)):
        assert start(gated, model="acme/open", hugging_face_hub_token=token).status_code == status


def test_a_cache_that_the_portal_cannot_write_takes_none_of_the_hub(setting, monkeypatch, start, folder):
    monkeypatch.setattr("engines.preflight.chosen_name", lambda: "docker")
    setting(hf_cache_dir="a-volume")
    assert "hf_cache_dir is a Docker volume" in start(SQL).json()["adapters"][0]
    assert start({"name": "law", "model": str(folder)}).status_code == 202


def test_the_documented_start_takes_them_too(client_of, alice):
    body = {"Model": "acme/tiny", "ADAPTERS": [SQL], "wait": False}
    assert client_of(alice).post("/vllm_request/start", body, format="json").status_code == 202
    assert newest().adapters == [{**SQL, "revision": ""}]
    wrong = client_of(alice).post("/vllm_request/start", {**body, "ADAPTERS": [{**SQL, "name": "/"}]}, format="json")
    assert list(wrong.json()) == ["ADAPTERS"]


def test_starting_again_takes_the_same(hub, start, alice, client_of):
    start({**SQL, "revision": "v1"}, model="acme/open")
    old = newest()
    assert starting.start_again(old, alice).adapters == old.adapters
    Engine.objects.filter(pk=old.pk).update(state=State.FAILED)
    assert client_of(alice).post(f"{ENGINES}/{old.pk}/retry", {}, format="json").json()["adapters"] == old.adapters
    recipe = client_of(alice).post("/api/v1/recipes", {"name": "r", "engine": str(old.pk)}, format="json").json()
    assert recipe["adapters"] == old.adapters
    started = client_of(alice).post(f"/api/v1/recipes/{recipe['id']}/start", {}, format="json").json()
    assert started["adapters"] == old.adapters
    assert list(
        client_of(alice).post(f"/api/v1/recipes/{recipe['id']}/start", {"adapters": []}, format="json").json()
    ) == ["adapters"]


# Their files


@pytest.fixture
def ordered(engine_in):
    """ordered(*adapters, **columns): an engine of the docker launcher that was asked for."""

    def make(*given, **columns):
        columns = {"launcher": "docker", "device": "cpu", "adapters": adapters.rows(given), **columns}
        return engine_in(State.QUEUED, **columns)

    return make


def comes(engine, state=State.LOADING):
    """By one look after the other, as the reconciler's."""

    def arrived():
        launching.launch(engine.pk)
        engine.refresh_from_db()
        return engine.state in (state, State.FAILED)

    wait_until(arrived, state, 40)
    assert engine.state == state, engine.cause
    return engine


def test_the_files_of_the_commit_are_fetched_into_the_cache_and_no_others(hub, fake, ordered, tmp_path):
    engine = comes(ordered(Adapter("sql", "acme/gated", OLD_COMMIT), hf_token=GOOD_TOKEN))
    snapshot = tmp_path / "hf/hub/models--acme--gated/snapshots" / OLD_COMMIT
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(adapters.FILES)
    assert told(engine)["--lora-modules"][0]["path"] == (
        f"/root/.cache/huggingface/hub/models--acme--gated/snapshots/{OLD_COMMIT}"
    )
    assert told(engine)["--max-lora-rank"] == "32"
    engine.launcher = "process"
    assert told(engine)["--lora-modules"][0]["path"] == str(snapshot)
    ways = [event.new_state for event in engine.events.all()]
    assert ways[1:] == ["FETCHING", "QUEUED", "PULLING", "QUEUED", "PLACED", "STARTING", "LOADING"]


def test_adapters_come_before_the_model_and_all_bytes_are_told(hub, fake, ordered):
    hub.files |= {"config.json": b"{}", "model.safetensors": bytes(3000)}
    engine = ordered(
        Adapter("sql", "acme/open", COMMIT), model="acme/gated", revision=COMMIT, hf_token=GOOD_TOKEN,
        launcher="process",
    )  # fmt: skip
    comes(engine)
    sizes = {path: len(content) for path, content in hub.files.items()}
    asked = [path for path, _ in hub.asked]
    assert set(asked[:2]) == set(adapters.FILES), "what is small and may be wrong comes first"
    assert asked.index("model.safetensors") > 1
    both = sizes[adapters.CONFIG] * 2 + sizes[adapters.WEIGHTS] * 2 + sizes["config.json"] + sizes["model.safetensors"]
    assert engine.download["bytes_total"] == both
    (step,) = [step for step in starts.timeline(engine) if step.phase == "download"]
    assert step.detail.startswith(f"{both / 1e3:.1f} kB")


def test_how_far_it_is_is_shown_and_it_goes_on_where_it_was(hub, fake, ordered, tmp_path):
    hub.files[adapters.WEIGHTS] = safetensors(a=[1 << 20, 2])
    hub.bytes_per_s = 2 << 20
    engine = ordered(Adapter("sql", "acme/open", COMMIT))

    def downloading():
        launching.launch(engine.pk)
        engine.refresh_from_db()
        return engine.state == State.FETCHING and (engine.download or {}).get("bytes_done", 0) > 1 << 20

    wait_until(downloading, "a mebibyte", 40)
    assert engine.detail.startswith("the adapter sql: downloading ")
    (download,) = in_folder(tmp_path / "downloads")
    assert process.end(download)  # as if it had been killed
    hub.bytes_per_s = 0
    comes(engine)
    assert max(first for path, first in hub.asked if path == adapters.WEIGHTS) > 0


def test_a_disk_without_room_for_it_is_the_cause(hub, fake, ordered):
    hub.tells[adapters.WEIGHTS] = {"lfs": {"oid": "0" * 64, "size": 49 * 10**15, "pointerSize": 130},
                                   "size": 49 * 10**15}  # fmt: skip
    engine = comes(ordered(Adapter("sql", "acme/open", COMMIT)), State.FAILED)
    assert engine.cause_code == "disk_full"
    assert "The adapter needs 49000000.0 GB more" in engine.cause
    assert adapters.WEIGHTS not in hub.sent


@pytest.mark.parametrize("asked", ["", "v1"])
def test_one_that_was_not_fixed_is_fixed_to_what_the_hub_says_then(hub, fake, ordered, asked):
    engine = comes(ordered(Adapter("sql", "acme/open", asked)))
    fixed = Engine.objects.get(pk=engine.pk)
    assert fixed.adapters[0]["revision"] == (OLD_COMMIT if asked else COMMIT)
    assert fixed.kind == recipes.from_engine(fixed.owner, fixed, {"name": "exam"}).kind


def test_it_is_fetched_also_where_the_engine_fetches_its_model_by_itself(hub, fake, ordered, setting, tmp_path):
    setting(hf_check=False, hf_download=False)
    comes(ordered(Adapter("sql", "acme/open"), launcher="process", model="acme/open", revision=COMMIT))
    assert set(hub.sent) == set(adapters.FILES)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"files": {}}, "adapter_missing"),
        ({"files": {}, "adapter": Adapter("sql", "acme/open", COMMIT)}, "adapter_missing"),
        ({"trouble": 418}, "hub_unreachable"),  # what is not tried again and again
        ({"trouble": 418, "adapter": Adapter("sql", "acme/open", COMMIT)}, "hub_unreachable"),
        ({"adapter": Adapter("sql", "acme/gated")}, "model_gated"),
        ({"adapter": Adapter("sql", "acme/gated", COMMIT)}, "model_gated"),
        ({"adapter": Adapter("sql", "acme/none")}, "adapter_missing"),
        ({"adapter": Adapter("sql", "acme/none", COMMIT)}, "adapter_missing"),
        ({"adapter": Adapter("sql", "acme/open", "v9")}, "adapter_missing"),
        ({"setting": {"hf_offline": True}}, "model_not_cached"),
        ({"setting": {"hf_offline": True}, "adapter": Adapter("sql", "acme/open", COMMIT)}, "model_not_cached"),
        ({"setting": {"hf_cache_dir": "a-volume"}}, "cache_not_a_folder"),
    ],
)
def test_what_does_not_come_is_a_cause(hub, fake, ordered, setting, change, code):
    for name, value in change.items():
        setattr(hub, name, value)
    setting(**change.get("setting", {}))
    adapter = change.get("adapter", Adapter("sql", "acme/open"))
    engine = comes(ordered(adapter), State.FAILED)
    assert (engine.cause_code, fake.started) == (code, 0)
    assert engine.advice
    assert code == "cache_not_a_folder" or adapter.model in engine.cause or "hub" in engine.cause


def test_a_cache_that_may_not_be_written_is_a_cause(hub, fake, ordered, tmp_path):
    """Of a model its engine would try by itself; of an adapter it cannot."""
    blobs = tmp_path / "hf/hub/models--acme--open/blobs"
    blobs.parent.mkdir(parents=True)
    blobs.symlink_to(tmp_path)  # which root, too, may not write
    engine = comes(ordered(Adapter("sql", "acme/open", COMMIT)), State.FAILED)
    assert (engine.cause_code, "acme/open (sql)" in engine.cause) == ("cache_not_writable", True)
    assert "hf_cache_dir" in engine.advice


def test_a_stop_ends_it(hub, fake, ordered, tmp_path):
    engine = ordered(Adapter("sql", "acme/open", COMMIT))
    hub.delay_s = 30
    launching.launch(engine.pk)
    engine.refresh_from_db()
    assert (engine.state, engine.detail) == (State.FETCHING, "the adapter sql: asking the hub for its files")
    assert lifecycle.request_terminate(engine, NOW, "alice")
    fetching.sweep()
    assert not [download for download in in_folder(tmp_path / "downloads") if download.is_locked()]
    assert fake.started == 0


def test_what_is_there_is_used_where_nothing_may_be_downloaded_or_asked(hub, fake, ordered, setting):
    comes(ordered(Adapter("sql", "acme/open", COMMIT)))
    hub.close()
    again = ordered(Adapter("sql", "acme/open", COMMIT))
    launching.launch(again.pk)
    again.refresh_from_db()
    assert again.state == State.LOADING, "at once"
    setting(hf_offline=True)
    comes(ordered(Adapter("sql", "acme/open", COMMIT)))


def test_the_same_repository_as_model_and_as_adapter_are_two_downloads(tmp_path):
    model, adapter = Download(tmp_path, "acme/open", COMMIT), Download(tmp_path, "acme/open", COMMIT, adapter=True)
    for one in (model, adapter):
        one.path.mkdir()
    assert {one.path for one in in_folder(tmp_path)} == {model.path, adapter.path}


def test_an_adapter_in_use_is_not_removed_from_the_cache(hub, fake, ordered):
    engine = comes(ordered(Adapter("sql", "acme/open", COMMIT)))
    (cached,) = model_cache.listed()
    assert (cached.model, cached.engines) == ("acme/open", [engine.name])


def test_folders_are_mounted_read_only_each_once(folder, ordered):
    path = str(folder)
    engine = ordered(Adapter("a", path), Adapter("b", path), model=path)
    config = container_config(launching.launch_spec(engine), DockerSettings("p", folder, hf_cache="/srv/hf"))
    assert config["HostConfig"]["Mounts"] == [{"Type": "bind", "Source": path, "Target": path, "ReadOnly": True}]


def test_a_start_with_adapters_is_measured_apart(ordered):
    from engines.fit import measures
    from tests.engines.fit.test_measures import GPU_LOG

    for given in ((), (Adapter("sql", "acme/open"),)):
        measures.record(ordered(*given, device="cuda"), GPU_LOG, NOW)
    assert sorted(StartMeasure.objects.values_list("flags", flat=True)) == ["", "--max-loras 1 --max-lora-rank 16"]


@pytest.mark.parametrize(("ranks", "least"), [([], 1), ([1], 1), ([2], 8), ([8, 24], 32), ([257], 320), ([512], 512)])
def test_the_smallest_rank_that_vllm_knows_is_taken(ranks, least):
    assert adapters.max_lora_rank(ranks) == least


def test_ranks_of_single_modules_count():
    assert adapters.rank_of(b'{"r": 8, "rank_pattern": {"q_proj": 64}}') == 64
