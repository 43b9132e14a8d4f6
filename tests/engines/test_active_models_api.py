"""The lists of engines, and one's own engines in any state."""

from datetime import datetime

import pytest

from engines.states import RESTING, State

PATHS = ["/active_models/", "/active_models", "/vllm_request/active_models/", "/vllm_request/active_models"]


@pytest.fixture
def names(client_of):
    """names(user, body): the names of the engines that the user's POST lists."""

    def read(user, body=None):
        answer = client_of(user).post("/active_models/", body or {}, format="json")
        assert answer.status_code == 200, answer.content
        return {engine["engine_name"] for engine in answer.json()}

    return read


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("path", PATHS)
def test_the_same_list_on_all_paths(client_of, alice, engine_in, path, method):
    engine = engine_in(State.READY, max_model_len=512, seed=7, quantization="awq")
    answer = getattr(client_of(alice), method)(path)
    assert answer.status_code == 200
    listed = answer.json()["engines"] if "vllm_request" in path else answer.json()
    assert datetime.fromisoformat(listed[0].pop("timestamp")) == engine.created_at
    assert listed == [
        {
            "engine_name": engine.name,
            "container_id": engine.container_id,
            "model_name": "acme/tiny",
            "quantized": True,
            "max_model_length": 512,
            "seed": 7,
            "inference_end_point": f"http://testserver/engines/{engine.pk}/v1/completions",
            "user_id": str(alice.pk),
        }
    ]


def test_what_nobody_asked_for_is_a_number_all_the_same(client_of, alice, engine_in):
    engine_in(State.READY)
    (listed,) = client_of(alice).get("/active_models/").json()
    assert (listed["quantized"], listed["max_model_length"], listed["seed"]) == (False, 0, 0)


def test_what_the_engine_says_is_longer_counts(client_of, alice, engine_in):
    engine = engine_in(State.READY, max_model_len=512)
    type(engine).objects.update(served_max_model_len=500)
    assert client_of(alice).get("/active_models/").json()[0]["max_model_length"] == 500


def test_only_engines_that_came_up_and_are_not_ending(engine_in, names, alice):
    engines = {state: engine_in(state) for state in State}
    listed = {engines[state].name for state in (State.READY, State.UNHEALTHY, *RESTING, State.ASLEEP)}
    assert names(alice) == listed


def test_ones_own_and_shared_ones_and_for_admins_all(engine_in, names, alice, bob, root):
    own = engine_in(State.READY).name
    shared = engine_in(State.READY, owner=bob, shared=True).name
    others = engine_in(State.READY, owner=bob).name
    assert names(alice) == {own, shared}
    assert names(alice, {"username": "bob"}) == {own, shared}
    assert names(alice, {"username": ["bob"]}) == {own, shared}
    assert names(root) == {own, shared, others}
    assert names(root, {"username": "root"}) == {own, shared, others}
    assert names(root, {"username": "alice"}) == {own, shared}


def test_a_user_whom_an_admin_names_has_to_be_there(client_of, root):
    assert client_of(root).post("/active_models/", {"username": "nobody"}, format="json").status_code == 404


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["get", "post"])
def test_without_a_token_it_is_401(client, db, path, method):
    answer = getattr(client, method)(path)
    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")


def test_an_engine_tells_its_owner_why_it_failed(client_of, alice, engine_in):
    engine = engine_in(State.FAILED)
    body = client_of(alice).get(f"/vllm_request/engines/{engine.pk}").json()
    assert (body["state"], body["cause_code"], body["cause"]) == ("FAILED", "killed", "It was killed.")
    assert body["advice"] == "Start it again."
    assert [event["new_state"] for event in body["events"]][-2:] == ["READY", "FAILED"]
    assert "127.0.0.1" not in str(body)


@pytest.mark.parametrize("path", ["", "/", "/logs", "/logs/"])
def test_other_peoples_engines_are_404(client_of, bob, root, engine_in, path):
    engine = engine_in(State.READY, shared=True)
    assert client_of(bob).get(f"/vllm_request/engines/{engine.pk}{path}").status_code == 404
    assert client_of(root).get(f"/vllm_request/engines/{engine.pk}{path}").status_code == 200


@pytest.mark.parametrize("name", ["0" * 36, "-" * 36, "9e107d9d-372b-4c1d-8f4a-3e2f5d1c0b07"])
def test_an_engine_that_is_none_is_404(client_of, alice, name):
    assert client_of(alice).get(f"/vllm_request/engines/{name}").status_code == 404


def test_the_log_of_a_container_is_a_copy_without_secrets(client_of, alice, running, fake):
    from engines import engine_logs
    from vllm_portal.encryption import decrypt

    engine = running(State.LOADING, hf_token="hf_verySecretToken")
    key = decrypt(engine.engine_key_encrypted)
    path = f"/vllm_request/engines/{engine.pk}/logs"
    assert client_of(alice).get(path).json() == {"log": ""}, "the web process does not ask the launcher"
    fake.containers[engine.container_name].log = f"key {key} token hf_verySecretToken sk-abcdefghijkl end"
    engine_logs.copy_for_readers(engine)
    assert client_of(alice).get(path).json() == {"log": "key *** token *** *** end"}
