"""Engines that break their word and clients that leave: what is told, what is charged, what is held."""

import asyncio
import json
import socket
import threading
from functools import partial

import pytest
import requests

from accounts import keys
from engines.models import Engine
from tests.fakes.upstream import (
    STREAM_HEAD,
    chunk,
    completion,
    event,
    last_event,
    sse,
    streamed,
    whole,
)
from tests.inference.ledger_seen import numbers, records, reserved

STREAM = [event("hel", 7, 1), event("lo", 7, 2), last_event(7, 2), b"[DONE]"]


def test_the_engines_refusal_passes_with_a_string_code_and_costs_nothing(portal, engine, alice, raw_engine, eventually):
    body = {
        "error": {"message": "temperature must be non-negative", "type": "BadRequestError", "param": None, "code": 400}
    }
    raw_engine.answer = whole(json.dumps(body).encode(), status=400)
    answer = portal.chat(alice)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "temperature must be non-negative", "type": "BadRequestError", "param": None,
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


def test_wrong_usage_is_clamped_to_what_was_reserved(portal, engine, alice, raw_engine, eventually):
    raw_engine.answer = whole(completion(prompt=10**9, generated=10**9))
    assert portal.chat(alice, max_tokens=5).status_code == 200
    eventually(lambda: len(records()) == 1)
    (record,) = records()
    assert record.generated_tokens == 5
    assert record.prompt_tokens <= 1024
    assert record.exact is False


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


@pytest.mark.parametrize("how", ["the account is disabled", "the key is revoked"])
def test_who_may_have_no_more_has_a_running_answer_ended(portal, engine, alice, bob, raw_engine, eventually, how):
    """Charged is what has come; whoever else is being answered hears the end."""
    go_on = threading.Event()

    async def answer(request, writer):
        writer.write(STREAM_HEAD + chunk(sse(event("hel", 7, 1))))
        await asyncio.to_thread(go_on.wait, 20)
        writer.write(chunk(sse(last_event(7, 1), b"[DONE]")) + b"0\r\n\r\n")

    Engine.objects.filter(pk=engine.pk).update(shared=True)
    eventually(lambda: portal.chat(bob).status_code == 200)
    raw_engine.answer = answer
    key, clear = keys.make(alice, {"name": "ci"})
    body = {"model": "tiny", "messages": [], "stream": True}
    asking = partial(requests.post, f"{portal.url}/v1/chat/completions", json=body, stream=True, timeout=20)
    with (
        asking(headers={"Authorization": f"Bearer {clear}"}) as hers,
        asking(headers=portal.headers(bob)) as his,
    ):
        mine, others = hers.iter_content(None), his.iter_content(None)
        assert b"hel" in next(mine)
        assert b"hel" in next(others)
        if how == "the key is revoked":
            keys.revoke(key)
        else:
            alice.is_active = False
            alice.save()
        rest = b"".join(mine)
        assert b'"code":"invalid_api_key"' in rest.replace(b": ", b":")
        eventually(lambda: raw_engine.closed_early == 1)
        go_on.set()
        assert b"".join(others).endswith(b"[DONE]\n\n")
    eventually(lambda: sorted(one.outcome for one in records()) == ["aborted", "completed", "completed"])
    assert numbers(alice) == (7, 1)
    assert reserved(alice) == [0, 0]
