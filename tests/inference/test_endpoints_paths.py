"""The paths of the endpoints, as different clients ask for them, and what of a request reaches the engine."""

import json

import pytest
import requests

from inference.models import UsageRecord
from tests.fakes.upstream import sse, streamed, whole
from tests.inference.conftest import ready_engine

COUNTED = whole(b'{"count": 3, "usage": {"prompt_tokens": 4, "input_tokens": 4, "output_tokens": 2}}')
BODY = {"model": "tiny", "messages": [], "input": "x", "prompt": "x", "max_tokens": 1, "tokens": []}
ALIASES = {
    "/v1/chat/completions": ["/chat/completions", "/v1/completions/chat/completions"],
    "/v1/completions": ["/completions", "/v1/completions/completions"],
    "/v1/embeddings": ["/embeddings"],
    "/v1/messages": ["/messages"],
    "/v1/messages/count_tokens": [],
    "/v1/rerank": [],
    "/v2/rerank": [],
    "/rerank": [],
    "/v1/score": [],
    "/score": [],
    "/tokenize": ["/v1/tokenize"],
    "/detokenize": ["/v1/detokenize"],
}
WAYS = [(way, path) for path, others in ALIASES.items() for way in (path, *others)]


@pytest.mark.parametrize(("way", "path"), WAYS)
def test_each_endpoint_answers_with_and_without_a_slash_and_by_engine(portal, engine, alice, raw_engine, way, path):
    raw_engine.answer = COUNTED
    for asked in (way, way + "/", f"/engines/{engine.id}{way}", f"/engines/{engine.id}{way}/"):
        answer = portal.post(alice, asked, BODY, allow_redirects=False)
        assert answer.status_code == 200, (asked, answer.text)
    # The way in which the tokenizer answers is the test's engine's own.
    assert {one.path for one in raw_engine.received} == {path}


@pytest.mark.parametrize("path", ALIASES)
def test_only_post_is_allowed(portal, engine, alice, path):
    answer = portal.get(alice, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert requests.options(portal.url + path, headers=portal.headers(alice), timeout=10).status_code == 405


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/", "/models", "/v1/models/tiny"])
def test_models_answer_head_and_get(portal, engine, alice, path):
    whole_answer = portal.get(alice, path)
    head = requests.head(portal.url + path, headers=portal.headers(alice), timeout=10)
    assert (whole_answer.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == "application/json"
    listed = portal.get(alice, f"/engines/{engine.id}/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny"]


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nothing", "/v1/audio/speech", "/v2/nothing", "/invocations"])
def test_what_an_engine_has_and_the_portal_does_not_offer_is_404(portal, engine, alice, raw_engine, path):
    for asked in (path, f"/engines/{engine.id}{path}"):
        answer = portal.post(alice, asked, BODY)
        assert answer.status_code == 404, asked
        if asked.startswith(("/v1", "/engines/")):
            assert answer.json()["error"]["code"] == "not_found"
    assert not raw_engine.received


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/tokenize", "/rerank", "/v1/embeddings"])
def test_nothing_of_the_client_reaches_the_engine_but_its_body_and_request_id(portal, engine, alice, raw_engine, path):
    raw_engine.answer = COUNTED
    headers = {
        "X-Forwarded-For": "1.2.3.4", "Forwarded": "for=1.2.3.4", "Cookie": "a=b", "X-Request-Id": "mine-1",
        "x-api-key": "sk-secret", "traceparent": "00-1-2-01", "anthropic-version": "2023-06-01", "anthropic-beta": "x",
        "User-Agent": "me", "Accept-Encoding": "gzip", "OpenAI-Organization": "us", "X-Custom": "y",
    }  # fmt: skip
    answer = portal.post(alice, path, {**BODY, "query": "x", "documents": ["y"]}, headers=headers)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine-1")
    (received,) = [one for one in raw_engine.received if one.path == path]
    assert set(received.headers) == {"host", "content-length", "content-type", "authorization", "x-request-id"}
    assert received.headers["x-request-id"] == "mine-1"
    assert "secret" not in str(received.headers)
    assert "eyJ" not in received.headers["authorization"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/models"])
def test_a_key_may_come_as_x_api_key(portal, engine, alice, path):
    token = portal.headers(alice)["Authorization"].removeprefix("Bearer ")
    method = "GET" if path == "/v1/models" else "POST"
    body = None if method == "GET" else BODY
    answer = requests.request(method, portal.url + path, json=body, headers={"x-api-key": token}, timeout=10)
    assert answer.status_code == 200, answer.text
    wrong = requests.request(method, portal.url + path, json=body, headers={"x-api-key": "nonsense"}, timeout=10)
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/messages/count_tokens"])
def test_the_tokenizer_is_free_but_not_for_everybody(portal, engine, alice, raw_engine, limit, eventually, path):
    limit(alice, prompt=1, generated=0)
    raw_engine.answer = COUNTED
    headers = portal.headers(alice)
    assert portal.post(alice, path, {**BODY, "prompt": "many words " * 50}, headers=headers).status_code == 200
    eventually(lambda: UsageRecord.objects.count() == 1)
    record = UsageRecord.objects.get()
    assert (record.prompt_tokens, record.generated_tokens, record.exact, record.path) == (0, 0, True, path)
    alice.is_active = False
    alice.save()
    assert portal.post(alice, path, BODY, headers=headers).status_code == 401


def test_pairs_are_bounded_by_each_query_with_each_document(portal, alice, raw_engine, limit):
    limit(alice, prompt=8000)
    ready_engine(alice, raw_engine.port, task="embed")
    asked = {"model": "tiny", "query": "q" * 2000, "documents": ["word"] * 10}
    answer = portal.post(alice, "/rerank", asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    raw_engine.answer = COUNTED
    assert portal.post(alice, "/rerank", {"model": "tiny", "query": "q", "documents": ["word"]}).status_code == 200


def test_an_error_of_the_engine_within_a_stream_has_a_string_code(portal, engine, alice, raw_engine):
    broken = b'{"error": {"message": "boom", "type": "InternalServerError", "param": null, "code": 500}}'
    raw_engine.answer = streamed(sse(broken, b"[DONE]"))
    answer = portal.chat(alice, stream=True)
    first, last = answer.content.strip().split(b"\n\n")
    error = {"message": "boom", "type": "InternalServerError", "param": None, "code": "engine_error"}
    assert json.loads(first.removeprefix(b"data: ")) == {"error": error}
    assert last == b"data: [DONE]"
