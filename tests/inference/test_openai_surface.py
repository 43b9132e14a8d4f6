"""Paths, methods, keys and bodies: what is let in, and how the rest is refused."""

import pytest

from engines.models import Engine
from vllm_portal.changes import announce


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/chat/completions", "/chat/completions/"])
def test_the_paths_have_twins(portal, engine, alice, raw_engine, path):
    assert portal.post(alice, path, {"model": "tiny", "messages": []}).status_code == 200
    assert raw_engine.received[0].path == "/v1/chat/completions"


def test_an_engine_can_be_addressed_by_its_id(portal, engine, alice, bob, raw_engine):
    body = {"model": "tiny", "messages": []}
    for path in (f"/engines/{engine.id}/v1/chat/completions", f"/engines/{engine.id}/chat/completions/"):
        assert portal.post(alice, path, body).status_code == 200
    refused = portal.post(bob, f"/engines/{engine.id}/v1/chat/completions", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


def test_models_lists_what_the_caller_may_use(portal, engine, alice, bob, root):
    (model,) = portal.get(alice, "/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", 1024)
    assert portal.get(alice, "/v1/models/tiny").json()["id"] == "tiny"
    assert portal.get(bob, "/v1/models/").json() == {"object": "list", "data": []}
    assert portal.get(bob, "/v1/models/tiny").status_code == 404
    assert len(portal.get(root, "/v1/models").json()["data"]) == 1


def test_a_shared_engine_serves_everybody(portal, alice, bob, raw_engine):
    from tests.inference.conftest import ready_engine

    ready_engine(alice, raw_engine.port, shared=True)
    assert portal.chat(bob).status_code == 200


def test_users_of_a_shared_engine_share_no_cached_prefix(portal, alice, bob, raw_engine):
    from tests.inference.conftest import ready_engine

    engine = ready_engine(alice, raw_engine.port)
    portal.chat(alice)
    Engine.objects.filter(pk=engine.pk).update(shared=True)
    announce("engines")
    for user in (bob, bob, alice):
        assert portal.chat(user).status_code == 200
    own, first, again, other = [one.json.get("cache_salt") for one in raw_engine.received]
    assert (own, first == again, first == other, len(first)) == (None, True, False, 32)


def test_without_a_model_the_only_engine_answers(portal, engine, alice, raw_engine):
    assert portal.post(alice, "/v1/chat/completions", {"messages": []}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_key"),
        ({"Authorization": "Basic YTpi"}, "missing_key"),
        ({"Authorization": "Bearer nonsense"}, "invalid_api_key"),
        ({"Authorization": "Bearer "}, "invalid_api_key"),
        ({"Authorization": "Bearer a.b.c"}, "invalid_api_key"),
        ({"Authorization": "Bearer \xff\xfe"}, "invalid_api_key"),
    ],
)
def test_a_missing_or_bad_token_is_401_in_openai_shape(portal, engine, headers, code):
    import requests

    answer = requests.post(portal.url + "/v1/chat/completions", json={}, headers=headers, timeout=10)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b'{"model": 5}', 400, "model"),
        (b'{"model": "tiny", "stream": "yes"}', 400, "stream"),
        (b'{"model": "tiny", "n": 0}', 400, "n"),
        (b'{"model": "tiny", "n": 1000}', 400, "n"),
        (b'{"model": "tiny", "max_tokens": -1}', 400, "max_tokens"),
        (b'{"model": "tiny", "max_tokens": "5"}', 400, "max_tokens"),
        (b'{"model": "tiny", "chat_template": "{{ 1 }}"}', 400, "chat_template"),
        (b'{"model": "other"}', 404, "model"),
        (b"\xff\xfe", 400, None),
        (b"[" * 100_000, 400, None),
        (b'{"a":' * 100_000, 400, None),
    ],
)
def test_a_bad_body_is_refused_by_name_and_reaches_no_engine(portal, engine, alice, raw_engine, body, status, param):
    answer = portal.post(alice, "/v1/chat/completions", data=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert isinstance(error["code"], str)
    assert not raw_engine.received


def test_a_huge_body_is_413(portal, engine, alice, raw_engine):
    from vllm_portal.config import get_config

    answer = portal.post(alice, "/v1/chat/completions", data=b" " * (get_config().max_body_bytes + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")

    def parts():
        for _ in range(get_config().max_body_bytes // 2**16 + 1):
            yield b" " * 2**16

    assert portal.post(alice, "/v1/chat/completions", data=parts()).status_code == 413
    assert not raw_engine.received


def test_unknown_paths_and_methods_are_refused_in_openai_shape(portal, engine, alice):
    assert portal.get(alice, "/v1/chat/completions").status_code == 405
    assert portal.post(alice, "/v1/models").status_code == 405
    answer = portal.post(alice, "/v1/nonsense", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert portal.get(alice, f"/engines/{engine.id}/metrics").status_code == 404
    assert portal.get(alice, "/engines/x/v1/models").status_code == 404


@pytest.mark.parametrize("path", ["/token", "/llm_request", "/admin/login/"])
def test_a_huge_body_for_django_is_413_too(portal, path):
    import requests

    from vllm_portal.config import get_config

    most = get_config().max_body_bytes
    assert requests.post(portal.url + path, data=b" " * (most + 1), timeout=20).status_code == 413
    parts = (b" " * 2**16 for _ in range(most // 2**16 + 1))
    assert requests.post(portal.url + path, data=parts, timeout=20).status_code == 413


def test_a_body_in_chunks_is_a_body_for_django_too(portal, alice):
    import requests

    parts = iter([b'{"username": "alice", ', b'"password": "correct horse"}'])
    answer = requests.post(portal.url + "/token", data=parts, headers={"content-type": "application/json"}, timeout=20)
    assert (answer.status_code, answer.json()["username"]) == (200, "alice")
