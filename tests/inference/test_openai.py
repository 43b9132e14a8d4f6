"""The inference paths, over real sockets, against an engine that says exactly what the test wants."""

import asyncio
import threading

from tests.fakes.upstream import (
    STREAM_HEAD,
    chunk,
    completion,
    event,
    last_event,
    sse,
    streamed,
)
from tests.inference.ledger_seen import numbers, records, reserved

STREAM = [event("hel", 7, 1), event("lo", 7, 2), last_event(7, 2), b"[DONE]"]


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
        alice,
        "/v1/chat/completions",
        {"model": "tiny", "messages": []},
        headers={"X-Forwarded-For": "1.2.3.4", "Cookie": "a=b", "X-Request-Id": "mine-1"},
    )
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
