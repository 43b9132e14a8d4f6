"""`/api/v1/engines/fit`."""

import json
import logging
import socket

import pytest

from engines import adapters, preflight
from engines.fit import question
from engines.fit.flags import GIB
from engines.models import Engine, Gpu, GpuLease, StartMeasure
from engines.states import State
from tests.engines.conftest import NOW
from tests.engines.fit.published import CONFIGS
from tests.engines.fit.tiny import CONFIG, write_model
from tests.fakes.hub import COMMIT, GOOD_TOKEN, OLD_COMMIT, FakeHub

pytestmark = pytest.mark.django_db

FIT = "/api/v1/engines/fit"


@pytest.fixture
def ask(client_of, people, settings):
    """ask(body, who): the answer."""
    return lambda body, who="alice": client_of(people[who]).post(FIT, body, format="json")


@pytest.fixture
def folder(tmp_path, setting):
    """The folder of a tiny model that may be started."""
    setting(allowed_model_roots=[tmp_path], cpu_kv_cache_gib=1)
    return write_model(tmp_path / "tiny")


@pytest.fixture
def on_gpus(setting, monkeypatch):
    """on_gpus(gib, …): the portal runs engines on GPUs, and has one for each of these."""
    monkeypatch.setattr(preflight, "chosen_name", lambda: "process")
    setting(device="cuda")

    def add(*gib, name="L4"):
        for number, size in enumerate(gib, Gpu.objects.count()):
            values = {"uuid": f"GPU-{number}", "index": number, "name": name, "memory_bytes": size * GIB}
            Gpu.objects.create(**values, seen_at=NOW)

    return add


@pytest.fixture
def fake_hub(setting):
    fake = FakeHub()
    fake.files = {
        "config.json": json.dumps(CONFIGS["meta-llama/Llama-3.1-8B"]).encode(),
        "model-00001-of-00002.safetensors": 16_060_000_000, "model-00002-of-00002.safetensors": 522_496,
        "original/consolidated.00.pth": 16_060_000_000,
    }  # fmt: skip
    fake.parameters = {"BF16": 8_030_261_248}
    setting(hf_check=True, hf_offline=False, hf_endpoint=fake.url, hf_check_timeout_s=10.0, hf_cache_dir="/nowhere/hf")
    yield fake
    fake.close()


def refusal(answer, status=400):
    assert answer.status_code == status, answer.content
    ((field, text),) = answer.json().items()
    return field, "".join(text)


def test_a_folder_is_judged_without_a_network(ask, folder):
    body = ask({"model": str(folder)}).json()
    assert (body["model"], body["fits"], body["fits_now"]) == (str(folder), True, True)
    assert (body["max_model_len"], body["parameters"]) == (2048, 262_144)
    assert body["weights_bytes"] == (folder / "model.safetensors").stat().st_size
    assert body["kv_cache_bytes_per_token"] == 2 * 2 * 2 * 32 * 2  # layers, K and V, heads, size, bytes
    (place,) = body["places"]
    assert (place["device"], place["cache_bytes"], place["basis"]) == ("cpu", GIB, "estimated")
    assert place["requests_at_once"] == 128


def test_gpus_that_are_not_here_can_be_asked_about(ask, fake_hub):
    gpus = [{"name": "NVIDIA L4", "memory_gib": 22.5}, {"memory_gib": "80", "count": "2"}, {"memory_gib": 4}]
    body = ask({"model": "acme/open", "max_model_len": "32768", "gpus": gpus}).json()
    assert (body["model"], body["commit"], body["fits"]) == ("acme/open", COMMIT, True)
    assert [place["fits"] for place in body["places"]] == [False, True, False]
    assert body["parameters"] == 8_030_261_248
    small, large, tiny = body["places"]
    assert "needs 4.0 GiB of KV cache" in small["problem"]
    assert small["changes"][0]["field"] == "max_model_len"
    assert (large["name"], large["count"], large["changes"]) == ("GPU", 2, [])
    assert tiny["changes"] == [{"field": "model", "value": None, "text": "A smaller model."}]


def test_what_is_free_here_is_told_apart_from_what_is_here(ask, fake_hub, on_gpus, engine_in):
    on_gpus(24, 24)
    on_gpus(80, name="H100")
    order = {"model": "acme/open", "max_model_len": 8192}
    body = ask({**order, "tensor_parallel_size": 2}).json()
    assert [(place["name"], place["fits"]) for place in body["places"]] == [("L4", True), ("H100", False)]
    assert body["places"][1]["problem"] == "It asks for 2 GPUs, and there is 1 of this kind."
    GpuLease.objects.create(gpu=Gpu.objects.get(index=0), engine=engine_in(State.READY))
    body = ask({**order, "tensor_parallel_size": 2}).json()
    assert (body["fits"], body["fits_now"], body["places"][0]["free"]) == (True, False, 1)
    assert ask(order).json()["fits_now"] is True


def test_without_gpus_it_says_so(ask, fake_hub, on_gpus):
    body = ask({"model": "acme/open"}).json()
    assert (body["fits"], body["fits_now"], body["places"]) == (None, None, [])
    assert "No GPU is known here" in body["notes"][0]


def test_more_gpus_than_there_are_is_a_verdict_and_no_refusal(ask, fake_hub, on_gpus):
    on_gpus(24)
    body = ask({"model": "acme/open", "tensor_parallel_size": 3, "max_model_len": 512}).json()
    assert not body["fits"]
    assert "3 GPUs cannot share the model's 32 attention heads" in body["places"][0]["problem"]


def test_a_start_that_was_measured_answers_instead_of_the_estimate(ask, fake_hub, on_gpus):
    on_gpus(80, name="H100")
    order = {"model": "acme/open", "max_model_len": 8192}
    assert ask(order).json()["places"][0]["basis"] == "estimated"
    StartMeasure.objects.create(
        key="k", model="acme/open", device="cuda", gpu_name="H100", gpu_memory_bytes=80 * GIB, tensor_parallel_size=1,
        kv_cache_dtype="auto", gpu_memory_utilization=0.92, weights_bytes=15 * GIB, cache_bytes=50 * GIB,
        cache_tokens=409_600, max_model_len=8192, concurrency=50.0, measured_at=NOW,
    )  # fmt: skip
    (place,) = ask(order).json()["places"]
    assert (place["basis"], place["cache_bytes"], place["requests_at_once"]) == ("measured", 50 * GIB, 50)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model"),
        ({"model": "../etc"}, "model"),
        ({"model": "/etc"}, "model"),
        ({"model": 7}, "model"),
        ({"model": "acme/open", "max_model_len": 0}, "max_model_len"),
        ({"model": "acme/open", "tensor_parallel_size": 10_000}, "tensor_parallel_size"),
        ({"model": "acme/open", "kv_cache_dtype": "int3"}, "kv_cache_dtype"),
        ({"model": "acme/open", "gpus": [{"memory_gib": "1e999"}]}, "gpus"),
        ({"model": "acme/open", "gpus": [{"memory_gib": "nan"}]}, "gpus"),
        ({"model": "acme/open", "gpus": [{"memory_gib": -1}]}, "gpus"),
        ({"model": "acme/open", "gpus": [{}]}, "gpus"),
        ({"model": "acme/open", "gpus": "two"}, "gpus"),
        ({"model": "acme/open", "gpus": [{"memory_gib": 1}] * 21}, "gpus"),
        ({"model": "acme/open", "hugging_face_hub_token": "with space"}, "hugging_face_hub_token"),
        ({"model": "acme/gated"}, "hugging_face_hub_token"),
        ({"model": "acme/open", "hugging_face_hub_token": "hf_neverHeardOfThis"}, "hugging_face_hub_token"),
        ({"model": "acme/none"}, "model"),
    ],
)
def test_what_is_wrong_is_named(ask, fake_hub, body, field):
    answer = ask(body)
    assert (answer.status_code, list(answer.json())) == (400, [field])
    assert "neverHeard" not in answer.content.decode()


def test_a_gated_model_with_a_token_that_may_read_it(ask, fake_hub, caplog):
    caplog.set_level(logging.DEBUG)
    answer = ask({"model": "acme/gated", "hugging_face_hub_token": GOOD_TOKEN, "gpus": [{"memory_gib": 80}]})
    assert answer.json()["fits"] is True
    assert GOOD_TOKEN not in answer.content.decode() + caplog.text


def test_a_repository_without_a_config_names_the_model(ask, fake_hub):
    fake_hub.files = {"model.gguf": 100}
    assert refusal(ask({"model": "acme/open"})) == (
        "model",
        "Its repository has no config.json, so it is no whole model.",
    )
    fake_hub.files = {"config.json": b"{}"}
    assert refusal(ask({"model": "acme/open"}))[1] == "Its config.json does not say num_hidden_layers."


def test_a_hub_that_is_away_is_said_to_be_for_now(ask, fake_hub, setting):
    fake_hub.trouble = 502
    answer = ask({"model": "acme/open"})
    assert (answer.status_code, answer["retry-after"]) == (503, "30")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        setting(hf_endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert ask({"model": "acme/open"}).status_code == 503


def test_where_the_hub_is_away_the_cache_answers(ask, fake_hub, setting, tmp_path):
    repository = tmp_path / "hub" / "models--acme--open"
    write_model(repository / "snapshots" / OLD_COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(OLD_COMMIT)
    setting(hf_cache_dir=str(tmp_path))
    assert ask({"model": "acme/open"}).json()["commit"] == COMMIT
    fake_hub.trouble = 502
    assert ask({"model": "acme/open"}).json()["commit"] == OLD_COMMIT
    fake_hub.trouble = 0
    setting(hf_offline=True)
    asked = len(fake_hub.tokens)
    assert ask({"model": "acme/open"}).json()["commit"] == OLD_COMMIT
    assert refusal(ask({"model": "acme/other"})) == (
        "model", "It is not in this machine's cache, and the portal may not ask the Hugging Face hub (hf_offline).",
    )  # fmt: skip
    assert len(fake_hub.tokens) == asked


def test_it_starts_nothing_and_changes_nothing(ask, folder):
    assert ask({"model": str(folder), "shared": True, "username": "bob", "unknown": 1}).status_code == 200
    assert not Engine.objects.exists()
    assert not StartMeasure.objects.exists()


def test_a_verdict_refuses_no_start(ask, folder, client_of, people):
    assert ask({"model": str(folder), "max_model_len": 4096}).json()["fits"] is False
    order = {"model": str(folder), "max_model_len": 4096}
    assert client_of(people["alice"]).post("/api/v1/engines", order, format="json").status_code == 202


def test_notes_say_what_is_not_counted(ask, folder):
    (folder / "config.json").write_text(json.dumps({**CONFIG, "layer_types": ["linear_attention", "full_attention"]}))
    body = ask({"model": str(folder), "quantization": "awq"}).json()
    assert "1 of its layers keep a state for each request" in body["notes"][0]
    assert "vLLM does not make awq by itself" in body["notes"][1]


@pytest.mark.parametrize(("limit", "gib"), [("2g", 2), ("512m", 0.5), ("1gb", 1), (None, None), ("much", None)])
def test_an_engine_may_use_no_more_than_docker_gives_it(setting, limit, gib):
    setting(docker_memory=None)
    whole = question._machine_memory()
    setting(docker_memory=limit)
    assert whole > 2**30
    assert question._machine_memory() == (whole if gib is None else min(whole, int(gib * GIB)))


def test_a_share_of_a_gpu_is_all_that_it_may_take(ask, fake_hub, on_gpus, engine_in):
    on_gpus(80, name="H100")
    order = {"model": "acme/open", "max_model_len": 8192}
    (whole,) = ask(order).json()["places"]
    (half,) = ask({**order, "gpu_memory_utilization": 0.5}).json()["places"]
    assert whole["cache_bytes"] - half["cache_bytes"] == int(0.92 * 80 * GIB) - int(0.5 * 80 * GIB)
    (small,) = ask({**order, "gpu_memory_utilization": 0.1}).json()["places"]
    assert (small["fits"], small["changes"][0]) == (
        False, {"field": "gpu_memory_utilization", "value": 0.3, "text": "A gpu_memory_utilization of 0.3 or more."},
    )  # fmt: skip
    GpuLease.objects.create(gpu=Gpu.objects.get(), engine=engine_in(State.READY), slices=10)
    assert ask({**order, "gpu_memory_utilization": 0.4}).json()["fits_now"] is True
    assert ask({**order, "gpu_memory_utilization": 0.5}).json()["fits_now"] is False
    assert ask(order).json()["fits_now"] is False


class TestAdapters:
    @pytest.fixture
    def with_adapter(self, fake_hub):
        """Whose repositories hold a model and an adapter of rank 24."""
        fake_hub.files |= {adapters.CONFIG: json.dumps({"r": 24}).encode(), adapters.WEIGHTS: 1000}
        return fake_hub

    def test_they_are_counted_by_their_rank(self, ask, with_adapter):
        order = {"model": "acme/open", "max_model_len": 8192, "gpus": [{"memory_gib": 24}]}
        given = [{"name": "sql", "model": "acme/open"}, {"name": "old", "model": "acme/gated", "revision": "v1"}]
        plain, body = ask(order), ask({**order, "adapters": given, "hugging_face_hub_token": GOOD_TOKEN}).json()
        (place,), (bare,) = body["places"], plain.json()["places"]
        assert bare["adapters_bytes"] == 0
        assert place["adapters_bytes"] == 2 * 32 * 2 * (32 * 81_920 + 264_704)
        assert place["cache_bytes"] == bare["cache_bytes"] - place["adapters_bytes"]
        assert body["notes"][-1] == "2 adapters: about 0.34 GiB at rank 32, estimated from the model's layers."

    def test_what_is_no_adapter_is_refused_as_at_a_start(self, ask, fake_hub):
        field, text = refusal(ask({"model": "acme/open", "adapters": [{"name": "sql", "model": "acme/open"}]}))
        assert (field, "no LoRA adapter" in text) == ("adapters", True)

    def test_where_the_hub_may_not_be_asked_the_cache_tells_or_nobody(self, ask, folder, setting, tmp_path):
        setting(hf_check=False, hf_cache_dir=str(tmp_path / "hf"))
        snapshot = tmp_path / "hf/hub/models--acme--there/snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (snapshot / adapters.CONFIG).write_text('{"r": 64}')
        given = [{"name": "there", "model": "acme/there", "revision": COMMIT}, {"name": "away", "model": "acme/away"}]
        notes = ask({"model": str(folder), "adapters": given}).json()["notes"]
        assert notes[-2].startswith("2 adapters: about 0.00 GiB at rank 64")
        assert notes[-1] == "The rank of away is not known; 16 is taken."

    def test_a_start_with_as_many_that_was_measured_answers(self, ask, with_adapter, on_gpus):
        on_gpus(80, name="H100")
        StartMeasure.objects.create(
            key="k", model="acme/open", device="cuda", gpu_name="H100", gpu_memory_bytes=80 * GIB,
            tensor_parallel_size=1, kv_cache_dtype="auto", gpu_memory_utilization=0.92, weights_bytes=16 * GIB,
            cache_bytes=49 * GIB, cache_tokens=1, max_model_len=8192, concurrency=49.0, measured_at=NOW,
            flags="--max-loras 1 --max-lora-rank 32",
        )  # fmt: skip
        order = {"model": "acme/open", "max_model_len": 8192}
        assert ask(order).json()["places"][0]["basis"] == "estimated"
        (place,) = ask({**order, "adapters": [{"name": "sql", "model": "acme/open"}]}).json()["places"]
        assert (place["basis"], place["cache_bytes"], place["adapters_bytes"]) == ("measured", 49 * GIB, 0)

    def test_the_form_says_it_too(self, client, people, folder, setting):
        law = folder.parent / "law"
        law.mkdir()
        (law / adapters.CONFIG).write_text('{"r": 8}')
        client.force_login(people["alice"])
        page = client.post("/engine/fit", {"model": str(folder), "adapters": f"law={law}"}).content.decode()
        assert "1 adapter: about" in page
