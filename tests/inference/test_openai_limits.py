"""What a caller may spend, and callers who no longer count."""

import asyncio
import json

import requests

from tests.fakes.upstream import (
    completion,
    whole,
)
from tests.inference.ledger_seen import numbers, records, reserved
from vllm_portal.redis_client import client


def test_n_parallel_requests_never_overshoot_a_limit(portal, engine, alice, raw_engine, limit, eventually):
    limit(alice, prompt=1_000_000, generated=50)

    async def answer(request, writer):
        granted = request.json["max_tokens"]
        await asyncio.sleep(0.01)
        from tests.fakes.upstream import http

        writer.write(http(completion(generated=granted)))

    raw_engine.answer = answer
    from concurrent.futures import ThreadPoolExecutor

    headers = portal.headers(alice)  # here, since it uses the database, of which each thread would have a connection
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7}

    def ask(_: int) -> requests.Response:
        return requests.post(portal.url + "/v1/chat/completions", json=body, headers=headers, timeout=20)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(60)))
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


def test_embeddings_cost_prompt_tokens_alone(portal, alice, raw_engine, eventually):
    from tests.inference.conftest import ready_engine

    ready_engine(alice, raw_engine.port, task="embed")
    usage = {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0}
    raw_engine.answer = whole(json.dumps({"object": "list", "data": [], "usage": usage}).encode())
    answer = portal.post(alice, "/v1/embeddings", {"model": "tiny", "input": ["a", "b"]})
    assert answer.status_code == 200
    eventually(lambda: numbers(alice) == (4, 0))
    assert "max_tokens" not in raw_engine.received[0].json


def test_the_token_of_a_deleted_user_is_refused(portal, alice, bob, raw_engine):
    from tests.inference.conftest import ready_engine

    ready_engine(alice, raw_engine.port, shared=True)
    headers = portal.headers(bob)
    assert portal.post(bob, "/v1/chat/completions", {"messages": []}, headers=headers).status_code == 200
    bob.delete()
    assert portal.post(alice, "/v1/chat/completions", {"messages": []}, headers=headers).status_code == 401
