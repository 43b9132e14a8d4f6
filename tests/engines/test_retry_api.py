"""`POST /api/v1/engines/<id>/retry`: what failed is started once more, with what may cure it."""

from datetime import UTC, datetime

import pytest

from engines import ending
from engines.diagnosis import Diagnosis
from engines.models import Engine, Gpu
from engines.retrying import advice_for, change_for
from engines.states import State
from vllm_portal.encryption import encrypt

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def api(client_of, people):
    """api(name): a client that is logged in as that person."""
    return lambda name="alice": client_of(people[name])


@pytest.fixture
def failed(engine_in):
    """failed(change, **columns): an engine that has failed and names this change."""

    def make(change=None, **columns):
        engine = engine_in(State.FAILED, **columns)
        Engine.objects.filter(pk=engine.pk).update(change=change)
        return engine

    return make


def make_gpus(count):
    for index in range(count):
        Gpu.objects.create(uuid=f"GPU-{index}", index=index, name="H200", memory_bytes=1, seen_at=NOW)


@pytest.fixture
def two_gpus(db):
    make_gpus(2)


def retry(client, engine, body=None, **headers):
    return client.post(f"/api/v1/engines/{engine.pk}/retry", body or {}, format="json", headers=headers)


def newest() -> Engine:
    return Engine.objects.order_by("-created_at").first()


def test_a_retry_is_a_new_engine_with_the_change_and_the_rest_as_it_was(api, failed, people):
    old = failed({"max_model_len": 256}, max_model_len=4096, seed=7, tokenizer="acme/words", shared=True)
    answer = retry(api(), old)
    assert answer.status_code == 202, answer.content
    new = newest()
    assert (new.model, new.max_model_len, new.seed, new.tokenizer, new.shared) == (
        "acme/tiny", 256, 7, "acme/words", True,
    )  # fmt: skip
    assert (new.owner, new.state) == (people["alice"], State.QUEUED)
    assert answer["Location"].endswith(str(new.pk))
    old.refresh_from_db()
    assert (old.state, old.max_model_len) == (State.FAILED, 4096)


def test_what_the_caller_names_goes_before_the_change_but_the_model_stays(api, failed):
    old = failed({"max_model_len": 256, "quantization": None}, quantization="awq")
    answer = retry(api(), old, {"max_model_len": 128, "model": "other/model", "quantization": "gptq"})
    assert answer.status_code == 202, answer.content
    assert (newest().model, newest().max_model_len, newest().quantization) == ("acme/tiny", 128, "gptq")


def test_a_change_may_take_an_option_away(api, failed):
    assert retry(api(), failed({"quantization": None}, quantization="awq")).status_code == 202
    assert newest().quantization == ""


def test_only_an_engine_that_has_ended_is_started_once_more(api, engine_in):
    assert retry(api(), engine_in(State.LOADING)).status_code == 409
    assert retry(api(), engine_in(State.STOPPED)).status_code == 202


def test_an_admins_retry_is_the_owners_engine(api, failed, people):
    assert retry(api("root"), failed({})).status_code == 202
    assert newest().owner == people["alice"]
    assert retry(api("bob"), failed({})).status_code == 404


def test_the_same_key_retries_once(api, failed):
    old = failed({})
    first, second = (retry(api(), old, **{"Idempotency-Key": "k1"}) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert second["Idempotent-Replayed"] == "true"
    assert retry(api(), old, {"seed": 1}, **{"Idempotency-Key": "k1"}).status_code == 422


def test_a_retry_counts_as_a_start(api, failed, engine_in, setting):
    setting(engines_per_user=1)
    engine_in(State.READY)
    answer = retry(api(), failed({}))
    assert (answer.status_code, "as many as allowed" in answer.content.decode()) == (400, True)


def test_a_token_that_is_no_longer_kept_is_asked_for(api, failed):
    old = failed({}, hf_account="alice-hf")
    answer = retry(api(), old)
    assert (answer.status_code, list(answer.json())) == (400, ["hugging_face_hub_token"])
    assert retry(api(), old, {"hugging_face_hub_token": "hf_new"}).status_code == 202
    assert retry(api(), old, {"hugging_face_hub_token": None}).status_code == 202


def test_a_token_that_is_still_kept_is_used_again(api, failed):
    old = failed({}, hf_account="alice-hf")
    Engine.objects.filter(pk=old.pk).update(hf_token_encrypted=encrypt("hf_kept"))
    assert retry(api(), old).status_code == 202
    assert "hf_kept" not in retry(api(), old).content.decode()


@pytest.mark.parametrize("body", [{"max_model_len": "long"}, {"tensor_parallel_size": 0}, {"quantization": 4}])
def test_what_is_wrong_with_a_retry_is_named(api, failed, body):
    answer = retry(api(), failed({}), body)
    assert (answer.status_code, list(answer.json())) == (400, list(body))


def test_a_body_that_is_no_object_is_refused(api, failed):
    assert api().post(f"/api/v1/engines/{failed({}).pk}/retry", [1], format="json").status_code == 400


def test_the_change_is_told_with_the_cause(api, engine_in):
    engine = engine_in(State.LOADING, max_model_len=4096, launcher="simulator")
    assert ending.fail(engine, Diagnosis("kv_cache_too_small", "Too little.", "Less.", {"max_model_len": 256}))
    body = api().get(f"/api/v1/engines/{engine.pk}").json()
    assert (body["cause_code"], body["change"]) == ("kv_cache_too_small", {"max_model_len": 256})


@pytest.mark.parametrize(
    ("code", "change", "size", "gpus", "expected"),
    [
        ("weights_too_large", None, 1, 2, {"tensor_parallel_size": 2}),
        ("weights_too_large", None, 2, 2, None),
        ("quantization_misaligned", None, 4, 4, {"tensor_parallel_size": 2}),
        ("quantization_misaligned", None, 1, 4, None),
        ("kv_cache_too_small", {"max_model_len": 256}, 1, 2, {"max_model_len": 256}),
        ("quantization_wrong", {"quantization": None}, 1, 0, None),
        ("port_in_use", {}, 1, 0, {}),
        ("model_gated", None, 1, 8, None),
    ],
)
def test_what_may_cure_it_is_something_else_than_it_was(engine_in, code, change, size, gpus, expected):
    make_gpus(gpus)
    engine = engine_in(State.LOADING, tensor_parallel_size=size)
    assert change_for(engine, Diagnosis(code, "", "", change)) == expected


@pytest.mark.parametrize(
    "code", ["weights_too_large", "gpu_out_of_memory", "warm_up_out_of_memory", "kv_cache_too_small"]
)
def test_who_had_a_share_of_a_gpu_is_offered_all_of_it_before_more_of_them(api, engine_in, two_gpus, code):
    engine = engine_in(State.LOADING, device="cuda", gpu_memory_utilization=0.3, launcher="simulator")
    assert ending.fail(engine, Diagnosis(code, "Too large.", "Take more GPUs."))
    engine.refresh_from_db()
    assert engine.change == {"gpu_memory_utilization": None}
    assert engine.advice.startswith("Start it without GPU_MEMORY_UTILIZATION")
    assert retry(api(), engine).status_code == 202
    again = newest()
    assert (again.gpu_memory_utilization, again.tensor_parallel_size) == (None, 1)
    assert change_for(again, Diagnosis(code, "", "")) == {"tensor_parallel_size": 2}


def test_a_length_that_fits_its_share_goes_before_all_of_the_gpu(engine_in, two_gpus):
    engine = engine_in(State.LOADING, device="cuda", gpu_memory_utilization=0.3, launcher="simulator")
    diagnosis = Diagnosis("kv_cache_too_small", "", "Less.", {"max_model_len": 256})
    assert change_for(engine, diagnosis) == {"max_model_len": 256}
    assert advice_for(engine, diagnosis) == "Less."


def test_an_engine_that_was_stopped_names_no_change(engine_in):
    assert engine_in(State.STOPPED).change is None
