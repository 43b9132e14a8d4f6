"""The inference paths, over real sockets, against an engine that says exactly what the test wants."""

import asyncio
import json
import socket
import threading

import pytest

from accounts.models import TokenLimit
from engines.models import Engine
from inference.models import UsageRecord
from tests.fakes.upstream import (
    STREAM_HEAD,
    chunk,
    completion,
    event,
    last_event,
    sse,
    streamed,
    whole,
)  # fmt: skip
from vllm_portal.changes import announce
from vllm_portal.redis_client import client

STREAM = [event("hel", 7, 1), event("lo", 7, 2), last_event(7, 2), b"[DONE]"]


def records():
    return list(UsageRecord.objects.order_by("id"))


def numbers(user):
    row = TokenLimit.objects.get(user=user)
    return row.prompt_token_number, row.gen_token_number


def reserved(user):
    return [int(value) for value in client().hmget(f"quota:{user.pk}", "pr", "gr")]


def test_an_answer_reaches_the_client_byte_for_byte_and_is_charged(portal, engine, alice, raw_engine, eventually):
    answer = portal.chat(alice)
    assert (answer.status_code, answer.content) == (200, completion())
    eventually(lambda: numbers(alice) == (7, 3))
    (record,) = records()
    assert (record.prompt_tokens, record.generated_tokens, record.exact, record.outcome) == (7, 3, True, "completed")
    assert (record.user, record.engine, record.model, record.path) == (alice, engine, "tiny", "/v1/chat/completions")
    assert reserved(alice) == [0, 0]


def test_only_the_portals_own_headers_reach_the_engine(portal, engine, alice, raw_engine):
    portal.post(
        alice, "/v1/chat/completions", {"model": "tiny", "messages": []},
        headers={"X-Forwarded-For": "1.2.3.4", "Cookie": "a=b", "X-Request-Id": "mine-1"},
    )  # fmt: skip
    (received,) = raw_engine.received
    assert set(received.headers) == {"host", "content-length", "content-type", "authorization", "x-request-id"}
    assert received.headers["x-request-id"] == "mine-1"
    assert "eyJ" not in received.headers["authorization"], "the user's token must not reach the engine"


def test_a_stream_passes_without_the_usage_that_the_client_did_not_ask_for(
    portal, engine, alice, raw_engine, eventually
):
    raw_engine.answer = streamed(*(sse(one) for one in STREAM))
    answer = portal.chat(alice, stream=True)
    plain = [b"".join(one.partition(b',"usage"')[:1]) + b"}" for one in STREAM[:2]]
    assert answer.content == sse(*plain, b"[DONE]")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    sent = raw_engine.received[0].json["stream_options"]
    assert sent == {"include_usage": True, "continuous_usage_stats": True}
    eventually(lambda: numbers(alice) == (7, 2))
    assert [(r.streamed, r.exact, r.outcome) for r in records()] == [(True, True, "completed")]


def test_the_usage_chunk_passes_when_the_client_asked_for_it(portal, engine, alice, raw_engine):
    raw_engine.answer = streamed(sse(*STREAM))
    answer = portal.chat(alice, stream=True, stream_options={"include_usage": True})
    assert answer.content.count(b'"usage"') == 1
    assert sse(last_event(7, 2)) in answer.content


def test_usage_in_every_chunk_passes_when_the_client_asked_for_it(portal, engine, alice, raw_engine):
    raw_engine.answer = streamed(sse(*STREAM))
    options = {"include_usage": True, "continuous_usage_stats": True}
    assert portal.chat(alice, stream=True, stream_options=options).content == sse(*STREAM)


def test_the_first_chunk_leaves_before_the_second_is_there(portal, engine, alice, raw_engine):
    go_on = threading.Event()

    async def answer(request, writer):
        writer.write(STREAM_HEAD + chunk(sse(STREAM[0])))
        await writer.drain()
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 10)
        writer.write(chunk(sse(*STREAM[1:])) + b"0\r\n\r\n")

    raw_engine.answer = answer
    body = {"model": "tiny", "messages": [], "stream": True}
    with portal.post(alice, "/v1/chat/completions", body, stream=True) as response:
        lines = response.iter_lines(chunk_size=1)
        assert b'"hel"' in next(lines)
        go_on.set()
        assert b"data: [DONE]" in list(lines)


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


def test_the_engines_refusal_passes_with_a_string_code_and_costs_nothing(portal, engine, alice, raw_engine, eventually):
    body = {
        "error": {"message": "temperature must be non-negative", "type": "BadRequestError", "param": None, "code": 400}
    }
    raw_engine.answer = whole(json.dumps(body).encode(), status=400)
    answer = portal.chat(alice)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "temperature must be non-negative", "type": "invalid_request_error", "param": None,
        "code": "invalid_request",
    }  # fmt: skip
    eventually(lambda: [(r.outcome, r.prompt_tokens, r.generated_tokens) for r in records()] == [("refused", 0, 0)])
    assert reserved(alice) == [0, 0]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (whole(b"not json", content_type="text/html"), 502),
        (whole(b'{"error":"Unauthorized"}', status=401), 502),
        (whole(b"", status=302), 502),
        (whole(b'{"error":{"message":"boom"}}', status=500), 502),
    ],
)
def test_an_engine_that_breaks_its_word_is_502_and_costs_nothing(
    portal, engine, alice, raw_engine, eventually, answer, status
):
    raw_engine.answer = answer
    assert portal.chat(alice).status_code == status
    eventually(lambda: [r.outcome for r in records()] == ["failed"])
    assert numbers(alice) == (0, 0)
    assert reserved(alice) == [0, 0]


def test_an_engine_that_is_gone_is_503(portal, engine, alice, raw_engine, eventually):
    raw_engine.stop()
    answer = portal.chat(alice)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    eventually(lambda: reserved(alice) == [0, 0])


def test_a_stream_that_breaks_off_ends_with_an_error_event_and_is_charged_to_its_last_count(
    portal, engine, alice, raw_engine, eventually
):
    raw_engine.answer = streamed(sse(STREAM[0]), sse(STREAM[1]), end=False)
    answer = portal.chat(alice, stream=True)
    *_, last = answer.content.strip().split(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_error"
    eventually(lambda: numbers(alice) == (7, 2))
    assert records()[0].outcome == "failed"
    assert reserved(alice) == [0, 0]


def test_a_stream_that_ends_without_done_is_no_success(portal, engine, alice, raw_engine, eventually):
    raw_engine.answer = streamed(sse(STREAM[0]))
    assert b'"error"' in portal.chat(alice, stream=True).content
    eventually(lambda: [r.outcome for r in records()] == ["failed"])


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_engines_work(portal, engine, alice, raw_engine, eventually, stream):
    async def answer(request, writer):
        if stream:
            writer.write(STREAM_HEAD + chunk(sse(STREAM[0])))
            await writer.drain()
        await asyncio.sleep(30)

    raw_engine.answer = answer
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": stream}).encode()
    host, port = portal.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    head += f"authorization: {portal.headers(alice)['Authorization']}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        eventually(lambda: any(one.path != "/tokenize" for one in raw_engine.received))
        if stream:
            seen = b""
            while b"hel" not in seen:
                seen += connection.recv(65536)
    eventually(lambda: raw_engine.closed_early == 1)
    eventually(lambda: [r.outcome for r in records()] == ["aborted"])
    (record,) = records()
    assert record.exact is stream
    assert record.prompt_tokens > 0
    assert reserved(alice) == [0, 0]


def test_n_parallel_requests_never_overshoot_a_limit(portal, engine, alice, raw_engine, limit, eventually):
    limit(alice, prompt=1_000_000, generated=50)

    async def answer(request, writer):
        granted = request.json["max_tokens"]
        await asyncio.sleep(0.01)
        from tests.fakes.upstream import http

        writer.write(http(completion(generated=granted)))

    raw_engine.answer = answer
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: portal.chat(alice, max_tokens=7), range(60)))
    eventually(lambda: reserved(alice) == [0, 0] and len(records()) == sum(a.status_code == 200 for a in answers))
    assert numbers(alice)[1] <= 50
    assert {answer.status_code for answer in answers} <= {200, 429}
    # What is left can be had to the last token, and then no more.
    while (left := 50 - numbers(alice)[1]) > 0:
        assert portal.chat(alice, max_tokens=7).json()["usage"]["completion_tokens"] == min(left, 7)
        eventually(lambda left=left: 50 - numbers(alice)[1] < left)
    refused = portal.chat(alice, max_tokens=1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")


def test_max_tokens_is_lowered_to_what_is_left(portal, engine, alice, raw_engine, limit):
    limit(alice, generated=20)
    portal.chat(alice, max_tokens=500)
    portal.chat(alice)
    portal.chat(alice, max_completion_tokens=400, n=2)
    sent = [one.json for one in raw_engine.received]
    assert (sent[0]["max_tokens"], sent[1]["max_tokens"], sent[2]["max_completion_tokens"]) == (20, 17, 7)


def test_near_the_prompt_limit_the_engine_counts(portal, engine, alice, raw_engine, limit):
    limit(alice, prompt=100)  # less than the bytes of the request, more than its tokens
    assert portal.chat(alice).status_code == 200
    assert [one.path for one in raw_engine.received] == ["/tokenize", "/v1/chat/completions"]


def test_a_prompt_over_the_limit_is_refused_with_its_size(portal, engine, alice, raw_engine, limit):
    limit(alice, prompt=5)
    answer = portal.chat(alice, messages=[{"role": "user", "content": "one two three four five six"}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert [one.path for one in raw_engine.received] == ["/tokenize"]


def test_a_disabled_user_is_refused_from_the_next_request_on(portal, engine, alice, raw_engine):
    headers = portal.headers(alice)
    body = {"model": "tiny", "messages": []}
    assert portal.post(alice, "/v1/chat/completions", body, headers=headers).status_code == 200
    alice.is_active = False
    alice.save()
    assert portal.post(alice, "/v1/chat/completions", body, headers=headers).status_code == 401


def test_a_changed_password_ends_the_old_tokens(portal, engine, alice, raw_engine):
    headers = portal.headers(alice)
    assert portal.post(alice, "/v1/chat/completions", {"messages": []}, headers=headers).status_code == 200
    alice.set_password("another horse")
    alice.save()
    assert portal.post(alice, "/v1/chat/completions", {"messages": []}, headers=headers).status_code == 401
    assert portal.chat(alice).status_code == 200


def test_without_the_live_ledger_nothing_is_let_through(portal, engine, alice, raw_engine, redis_server):
    import signal

    assert portal.chat(alice).status_code == 200
    redis_server.send_signal(signal.SIGSTOP)
    try:
        answer = portal.chat(alice)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "limits_unavailable")
        assert "retry-after" in answer.headers
    finally:
        redis_server.send_signal(signal.SIGCONT)
    assert len(raw_engine.received) == 1


def test_counters_that_are_lost_come_back_from_the_database(portal, engine, alice, raw_engine, eventually, limit):
    limit(alice, generated=10)
    assert portal.chat(alice).status_code == 200
    eventually(lambda: numbers(alice) == (7, 3))
    client().flushall()
    assert portal.chat(alice, max_tokens=500).status_code == 200
    assert raw_engine.received[-1].json["max_tokens"] == 7


def test_wrong_usage_is_clamped_to_what_was_reserved(portal, engine, alice, raw_engine, eventually):
    raw_engine.answer = whole(completion(prompt=10**9, generated=10**9))
    assert portal.chat(alice, max_tokens=5).status_code == 200
    eventually(lambda: len(records()) == 1)
    (record,) = records()
    assert record.generated_tokens == 5
    assert record.prompt_tokens <= 1024
    assert record.exact is False


def test_embeddings_cost_prompt_tokens_alone(portal, alice, raw_engine, eventually):
    from tests.inference.conftest import ready_engine

    ready_engine(alice, raw_engine.port, task="embed")
    usage = {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0}
    raw_engine.answer = whole(json.dumps({"object": "list", "data": [], "usage": usage}).encode())
    answer = portal.post(alice, "/v1/embeddings", {"model": "tiny", "input": ["a", "b"]})
    assert answer.status_code == 200
    eventually(lambda: numbers(alice) == (4, 0))
    assert "max_tokens" not in raw_engine.received[0].json


def test_a_client_that_takes_nothing_is_given_up_and_costs_bounded_memory(
    portal, engine, alice, raw_engine, eventually, write_timeout
):
    """The engine could send 100 MB; what it gets rid of is what sockets and the high-water mark hold."""
    sent = 0

    async def answer(request, writer):
        nonlocal sent
        writer.write(STREAM_HEAD)
        piece = chunk(sse(event("x" * 50_000, 7, 1)))
        for _ in range(2_000):
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    raw_engine.answer = answer
    write_timeout(0.4)
    body = json.dumps({"model": "tiny", "messages": [], "stream": True}).encode()
    host, port = portal.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    head += f"authorization: {portal.headers(alice)['Authorization']}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(head.encode() + body)
        eventually(lambda: raw_engine.closed_early == 1)
    assert sent < 20_000_000
    eventually(lambda: [(r.outcome, r.generated_tokens, r.exact) for r in records()] == [("aborted", 1, True)])


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


def test_the_token_of_a_deleted_user_is_refused(portal, alice, bob, raw_engine):
    from tests.inference.conftest import ready_engine

    ready_engine(alice, raw_engine.port, shared=True)
    headers = portal.headers(bob)
    assert portal.post(bob, "/v1/chat/completions", {"messages": []}, headers=headers).status_code == 200
    bob.delete()
    assert portal.post(alice, "/v1/chat/completions", {"messages": []}, headers=headers).status_code == 401
