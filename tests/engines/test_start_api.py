"""POST /vllm_request/start: what it takes, refuses and answers."""

from types import SimpleNamespace

import pytest
from rest_framework.test import APIClient

from engines import hints, lifecycle
from engines.models import Engine, Gpu
from engines.states import State
from tests.engines.conftest import NOW
from tests.fakes.hub import GOOD_TOKEN, FakeHub
from tests.threads import at_once
from tests.waiting import wait_until
from vllm_portal.celery import app
from vllm_portal.encryption import decrypt

pytestmark = pytest.mark.django_db(transaction=True)

START = "/vllm_request/start"
MODEL = {"Model": "acme/tiny", "wait": False}


@pytest.fixture
def start(client_of, alice):
    """start(body, user=alice): the answer."""
    return lambda body, user=alice, **options: client_of(user).post(START, body, format="json", **options)


def test_an_accepted_start_is_a_row_with_all_that_was_asked(start, alice):
    answer = start(
        {
            **MODEL, "HUGGING_FACE_HUB_TOKEN": "hf_secretOfAlice", "MAX_MODEL_LEN": 1024, "TENSOR_PARALLEL_SIZE": 2,
            "SEED": 7, "TOKENIZER": "acme/tokenizer", "QUANTIZATION": "awq", "shared": True, "username": "bob",
            "anything": {"else": [1]},
        }
    )  # fmt: skip
    assert answer.status_code == 202
    engine = Engine.objects.get()
    assert (engine.model, engine.max_model_len, engine.tensor_parallel_size, engine.seed) == ("acme/tiny", 1024, 2, 7)
    assert (engine.tokenizer, engine.quantization, engine.shared) == ("acme/tokenizer", "awq", True)
    assert (engine.owner, engine.state, engine.launcher, engine.device) == (alice, State.QUEUED, "simulator", "cpu")
    assert decrypt(engine.hf_token_encrypted) == "hf_secretOfAlice"
    assert "hf_secret" not in answer.content.decode()
    assert engine.name.startswith("tiny-")


def test_the_answer_names_everything_and_no_address_of_the_engine(start, alice):
    answer = start(MODEL)
    engine = Engine.objects.get()
    body = answer.json()
    assert set(body) == {
        "message", "vLLM_endpoint", "user_info", "status", "container_id", "engine_name", "engine_id",
    }  # fmt: skip
    assert body["vLLM_endpoint"] == f"http://testserver/engines/{engine.pk}/v1/completions"
    assert body["user_info"] == {"username": "alice", "hf_username": None}
    assert body["status"] == "unhealthy"
    assert (body["engine_name"], body["engine_id"]) == (engine.name, str(engine.pk))
    assert body["container_id"] == engine.container_name
    assert "QUEUED" in body["message"]


def test_the_portals_public_url_is_what_clients_get(start, setting):
    setting(public_url="https://portal.example/")
    assert start(MODEL).json()["vLLM_endpoint"].startswith("https://portal.example/engines/")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"wait": False}, {}),
        ({}, {"HTTP_PREFER": "respond-async"}),
        ({}, {"HTTP_PREFER": "wait=9, Respond-Async; a=b"}),
    ],
)
def test_who_does_not_want_to_wait_gets_202_and_a_place_to_look(start, client_of, alice, body, headers):
    answer = start({"Model": "acme/tiny", **body}, **headers)
    assert answer.status_code == 202
    seen = client_of(alice).get(answer["Location"].removeprefix("http://testserver"))
    assert (seen.status_code, seen.json()["state"]) == (200, "QUEUED")


def test_a_start_that_takes_too_long_is_202_and_goes_on(start, setting):
    setting(start_wait_seconds=0.1)
    answer = start({"Model": "acme/tiny"})
    assert (answer.status_code, answer.json()["status"]) == (202, "unhealthy")
    assert Engine.objects.get().state == State.QUEUED


@pytest.mark.parametrize("path", ["/vllm_request/start", "/vllm_request/start/"])
def test_with_and_without_a_slash(client_of, alice, path):
    assert client_of(alice).post(path, MODEL, format="json").status_code == 202


@pytest.mark.parametrize("client", [APIClient()])
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer nonsense", "Basic YTpi"])
def test_without_a_token_it_is_401(db, client, header):
    answer = client.post(START, MODEL, format="json", **({"HTTP_AUTHORIZATION": header} if header else {}))
    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
    assert "detail" in answer.json()
    assert not Engine.objects.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Model", 7), ("Model", ["a"]), ("Model", {}), ("Model", True), ("MODEL", 7), ("Model", "x" * 301),
        ("Model", "a; rm -rf /"), ("Model", "$(id)"), ("Model", "`id`"), ("Model", "a b"), ("Model", "acme/tiny\n"),
        ("Model", "a\nb"), ("Model", "a\x00b"), ("Model", "../etc/passwd"), ("Model", "acme/.."), ("Model", "--port"),
        ("Model", "-m"), ("Model", "/etc"), ("Model", "/"), ("Model", "~/model"), ("Model", "file:///etc"),
        ("Model", "http://127.0.0.1/x"), ("Model", "a/b/c"), ("Model", "acme/tiny "),
        ("MAX_MODEL_LEN", -1), ("MAX_MODEL_LEN", 0), ("MAX_MODEL_LEN", "many"), ("MAX_MODEL_LEN", 1.5),
        ("MAX_MODEL_LEN", True), ("MAX_MODEL_LEN", [1]), ("MAX_MODEL_LEN", 2**40), ("MAX_MODEL_LEN", "9" * 2000),
        ("TENSOR_PARALLEL_SIZE", 0), ("TENSOR_PARALLEL_SIZE", -1), ("TENSOR_PARALLEL_SIZE", 9),
        ("TENSOR_PARALLEL_SIZE", 100_000), ("TENSOR_PARALLEL_SIZE", "two"),
        ("SEED", -1), ("SEED", 2**32), ("SEED", "x"), ("SEED", {}),
        ("TOKENIZER", 5), ("TOKENIZER", "../x"), ("TOKENIZER", "--x"), ("TOKENIZER", "/etc"), ("TOKENIZER", "a b"),
        ("QUANTIZATION", 5), ("QUANTIZATION", "--x"), ("QUANTIZATION", "a b"), ("QUANTIZATION", "x" * 41),
        ("QUANTIZATION", "awq\n"), ("HUGGING_FACE_HUB_TOKEN", 5), ("HUGGING_FACE_HUB_TOKEN", "a\nb: c"),
        ("HUGGING_FACE_HUB_TOKEN", "x" * 501), ("shared", "perhaps"), ("wait", "perhaps"), ("wait", None),
    ],
)  # fmt: skip
def test_a_bad_value_is_400_and_names_its_field(start, field, value):
    body = {**({} if field == "MODEL" else MODEL), "wait": False, field: value}
    answer = start(body)
    assert answer.status_code == 400, answer.content
    assert list(answer.json()) == [field]
    assert isinstance(answer.json()[field], list)
    assert not Engine.objects.exists()


@pytest.mark.parametrize("body", [{}, {"Model": ""}, {"Model": None}, {"username": "alice"}])
def test_a_missing_model_names_it(start, body):
    assert start(body).json() == {"Model": ["This field is required."]}


@pytest.mark.parametrize("value", ["", None])
def test_a_missing_model_has_the_name_that_the_client_wrote(start, value):
    assert list(start({"MODEL": value}).json()) == ["MODEL"]


def test_a_bad_name_has_the_name_that_the_client_wrote(start):
    assert list(start({"MODEL": "../x"}).json()) == ["MODEL"]


def test_both_spellings_of_model_are_taken(start):
    assert start({"MODEL": "acme/other", "wait": False}).status_code == 202
    assert Engine.objects.get().model == "acme/other"


@pytest.mark.parametrize(
    "unset",
    [
        {"HUGGING_FACE_HUB_TOKEN": "None", "TOKENIZER": "auto", "QUANTIZATION": "None"},
        {"HUGGING_FACE_HUB_TOKEN": "", "TOKENIZER": "None", "QUANTIZATION": "auto"},
        {"HUGGING_FACE_HUB_TOKEN": None, "TOKENIZER": "", "QUANTIZATION": None, "MAX_MODEL_LEN": None, "SEED": None},
        {"TENSOR_PARALLEL_SIZE": None, "TOKENIZER": None, "QUANTIZATION": ""},
    ],
)
def test_what_means_unset_is_unset(start, unset):
    assert start({**MODEL, **unset}).status_code == 202
    engine = Engine.objects.get()
    assert (engine.hf_token_encrypted, engine.tokenizer, engine.quantization) == ("", "", "")
    assert (engine.max_model_len, engine.seed, engine.tensor_parallel_size) == (None, None, 1)


def test_numbers_may_be_digits(start):
    start({**MODEL, "MAX_MODEL_LEN": "512", "TENSOR_PARALLEL_SIZE": "2", "SEED": "0"})
    engine = Engine.objects.get()
    assert (engine.max_model_len, engine.tensor_parallel_size, engine.seed) == (512, 2, 0)


@pytest.mark.parametrize("body", ["[]", '"text"', "7", "null"])
def test_a_body_that_is_no_object_is_400(client_of, alice, body):
    answer = client_of(alice).post(START, body, content_type="application/json")
    assert answer.status_code == 400
    assert "detail" in answer.json()


@pytest.mark.parametrize("body", ["{", "", "{'a': 1}", "\xff", '{"Model": "a"', "[" * 100_000])
def test_broken_json_is_400(client_of, alice, body):
    answer = client_of(alice).post(START, body, content_type="application/json")
    assert answer.status_code == 400
    assert not Engine.objects.exists()


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
def test_other_methods_are_405(client_of, alice, method):
    assert getattr(client_of(alice), method)(START).status_code == 405


def test_a_model_folder_only_below_an_allowed_root(start, setting, tmp_path):
    root, outside = tmp_path / "models", tmp_path / "outside"
    for folder in (root / "good", outside):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (root / "no-config").mkdir()
    (root / "way-out").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (root / "alias").symlink_to(root / "good")
    setting(allowed_model_roots=[root])
    refused = [outside, root / "no-config", root / "way-out", root / "loop", root / "none", root / "../outside", root]
    for path in [*map(str, refused), str(root / "good") + "\n", f"{root}/" + "x" * 280]:
        answer = start({"Model": path, "wait": False})
        assert list(answer.json()) == ["Model"], path
    assert len({str(start({"Model": str(path)}).json()) for path in refused}) == 1, "it tells what is there"
    assert start({"Model": str(root / "alias"), "wait": False}).status_code == 202
    assert Engine.objects.get().model == str((root / "good").resolve())


def test_no_folder_at_all_without_an_allowed_root(start, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert list(start({"Model": str(tmp_path)}).json()) == ["Model"]


@pytest.mark.parametrize(("size", "status"), [(1, 202), (2, 202), (3, 400)])
def test_the_tensor_parallel_size_is_checked_against_the_gpus(start, setting, monkeypatch, size, status):
    monkeypatch.setattr("engines.preflight.chosen_name", lambda: "process")
    setting(device="cuda")
    for index, present in enumerate([True, True, False]):
        Gpu.objects.create(uuid=str(index), index=index, name="x", memory_bytes=1, present=present, seen_at=NOW)
    answer = start({**MODEL, "TENSOR_PARALLEL_SIZE": size})
    assert answer.status_code == status
    if status == 400:
        assert answer.json() == {"TENSOR_PARALLEL_SIZE": ["There are 2 GPUs here."]}


def test_with_docker_the_image_of_the_configuration_is_taken(start, setting, monkeypatch):
    monkeypatch.setattr("engines.preflight.chosen_name", lambda: "docker")
    setting(device="cuda", docker_image="acme/vllm:1")
    assert start({**MODEL, "image": "evil/image", "docker_image": "evil/image"}).status_code == 202
    engine = Engine.objects.get()
    assert (engine.image, engine.launcher, engine.device) == ("acme/vllm:1", "docker", "cuda")


def test_a_user_has_only_so_many_engines(start, setting, engine_in):
    setting(engines_per_user=2)
    engine_in(State.READY)
    engine_in(State.STOPPED)
    assert start(MODEL).status_code == 202
    refused = start(MODEL)
    assert refused.status_code == 400
    assert "2 engines" in refused.json()["detail"]


def test_starts_at_once_do_not_get_more_than_allowed(client_of, alice, setting):
    setting(engines_per_user=3)
    clients = [client_of(alice) for _ in range(6)]
    answers = at_once(*[lambda client=client: client.post(START, MODEL, format="json") for client in clients])
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [400] * 3
    assert Engine.objects.count() == 3


def test_two_starts_at_once_are_two_engines(client_of, alice, bob):
    answers = at_once(
        *[lambda user=user: client_of(user).post(START, MODEL, format="json") for user in (alice, bob, alice)]
    )
    assert [answer.status_code for answer in answers] == [202] * 3
    assert len({answer.json()["engine_id"] for answer in answers}) == 3
    assert len({answer.json()["engine_name"] for answer in answers}) == 3


def test_a_name_that_is_taken_is_not_given_again(start, monkeypatch):
    drawn = iter(["aaaa", "aaaa", "bbbb"])
    # That module's alone: others draw from `secrets`, too.
    monkeypatch.setattr("engines.starting.secrets", SimpleNamespace(token_hex=lambda size: next(drawn)))
    assert start(MODEL).json()["engine_name"] == "tiny-aaaa"
    assert start(MODEL).json()["engine_name"] == "tiny-bbbb"


def test_username_selects_another_user_for_an_admin_alone(start, alice, bob, root):
    start({**MODEL, "username": "bob"}, user=alice)
    start({**MODEL, "username": "bob"}, user=root)
    start({**MODEL, "username": 7}, user=alice)
    assert sorted(Engine.objects.values_list("owner__username", flat=True)) == ["alice", "alice", "bob"]
    assert start({**MODEL, "username": "nobody"}, user=root).status_code == 404
    assert list(start({**MODEL, "username": 7}, user=root).json()) == ["username"]


def test_a_failed_launch_is_200_unhealthy_with_cause_and_advice(start, client_of, alice):
    def fail():
        engine = wait_until(Engine.objects.first)
        lifecycle.failed(engine, NOW, "no_gpu", "There is no GPU.", "Buy one.")

    answer, _ = at_once(lambda: start({"Model": "acme/tiny"}), fail)
    assert (answer.status_code, answer.json()["status"]) == (200, "unhealthy")
    assert "There is no GPU. Buy one." in answer.json()["message"]


def test_an_engine_that_is_stopped_while_it_is_waited_for_is_an_answer(start, alice):
    def stop():
        engine = wait_until(Engine.objects.first)
        lifecycle.request_terminate(engine, NOW, "alice")
        lifecycle.stopped(engine, NOW)

    answer, _ = at_once(lambda: start({"Model": "acme/tiny"}), stop)
    assert (answer.status_code, answer.json()["status"]) == (200, "unhealthy")
    assert "stopped" in answer.json()["message"]


class TestWithAHub:
    @pytest.fixture(autouse=True)
    def hub(self, setting):
        hub = FakeHub()
        setting(hf_check=True, hf_endpoint=hub.url, hf_check_timeout_s=10.0)
        yield hub
        hub.close()

    def test_the_account_of_the_token_is_told(self, start):
        answer = start({"Model": "acme/gated", "HUGGING_FACE_HUB_TOKEN": GOOD_TOKEN, "wait": False})
        assert answer.json()["user_info"] == {"username": "alice", "hf_username": "alice-hf"}
        assert Engine.objects.get().hf_account == "alice-hf"

    def test_what_the_hub_refuses_is_400_without_a_row(self, start, caplog):
        assert list(start({"Model": "acme/none"}).json()) == ["Model"]
        assert list(start({"MODEL": "acme/none"}).json()) == ["MODEL"]
        assert list(start({"Model": "acme/gated"}).json()) == ["HUGGING_FACE_HUB_TOKEN"]
        answer = start({"Model": "acme/open", "HUGGING_FACE_HUB_TOKEN": "hf_wrongToken99"})
        assert list(answer.json()) == ["HUGGING_FACE_HUB_TOKEN"]
        assert "wrongToken" not in answer.content.decode() + caplog.text
        assert not Engine.objects.exists()

    def test_a_hub_in_trouble_does_not_matter(self, start, hub):
        hub.trouble = 500
        assert start({"Model": "acme/none", "wait": False}).status_code == 202

    def test_it_is_not_asked_where_engines_may_not_download(self, start, hub, setting):
        setting(hf_offline=True)
        assert start({"Model": "acme/none", "wait": False}).status_code == 202
        assert hub.tokens == []


def test_a_broker_that_is_away_costs_nobody_their_engine(start, monkeypatch, caplog):
    broken = type(app)("broken", broker="redis://127.0.0.1:1", set_as_current=False)
    broken.conf.task_publish_retry_policy = app.conf.task_publish_retry_policy
    monkeypatch.setattr(hints.send, "__defaults__", (0.0, broken))
    assert start(MODEL).status_code == 202
    assert Engine.objects.get().state == State.QUEUED
    assert "no hint" in caplog.text


def test_a_huge_body_is_413(client_of, alice, setting, settings):
    body = b'{"Model": "' + b"x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE + b'"}'
    answer = client_of(alice).post(START, body, content_type="application/json")
    assert answer.status_code == 413
    assert "detail" in answer.json()


def test_a_token_that_has_expired_or_was_revoked_is_401(client_of, alice):
    client = client_of(alice)
    alice.set_password("another horse")
    alice.save()
    assert client.post(START, MODEL, format="json").status_code == 401
    assert not Engine.objects.exists()
