"""Anthropic's messages: errors in their shape, whoever makes them, and streams that end badly."""

import json

import pytest
import requests

from inference.models import UsageRecord
from tests.fakes.upstream import STREAM_HEAD, chunk, streamed, whole
from tests.inference.test_endpoints_streams import message, named

HELLO = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


def refused(answer) -> tuple[int, str]:
    """The status and the error's type; the shape is Anthropic's."""
    body = answer.json()
    assert set(body) == {"type", "error", "request_id"}
    assert (body["type"], set(body["error"])) == ("error", {"type", "message"})
    assert body["request_id"] == answer.headers["x-request-id"] == answer.headers["request-id"]
    return answer.status_code, body["error"]["type"]


def charged() -> list:
    fields = ("prompt_tokens", "generated_tokens", "outcome", "exact")
    return list(UsageRecord.objects.order_by("id").values_list(*fields))


def test_an_answer_passes_byte_for_byte_and_is_charged(portal, engine, alice, raw_engine, eventually):
    said = b'{"id":"m","type":"message","content":[],"usage":{"input_tokens":7,"output_tokens":3}}'
    raw_engine.answer = whole(said)
    answer = portal.post(alice, "/v1/messages", HELLO)
    assert answer.content == said
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    eventually(lambda: charged() == [(7, 3, "completed", True)])
    assert raw_engine.received[0].json == HELLO


def test_a_stream_passes_byte_for_byte_and_is_charged(portal, engine, alice, raw_engine, eventually):
    said = message(7, ["Hel", "lo"], 2)
    raw_engine.answer = streamed(said[:100], said[100:])
    answer = portal.post(alice, "/v1/messages", {**HELLO, "stream": True})
    assert answer.content == said
    assert raw_engine.received[0].json == {**HELLO, "stream": True}, "nothing is asked for that the client did not"
    eventually(lambda: charged() == [(7, 2, "completed", True)])


def test_refusals_of_the_portal(portal, engine, alice, bob, raw_engine, limit):
    limit(alice, generated=0)
    url = portal.url + "/v1/messages"
    assert refused(requests.post(url, json=HELLO, timeout=10)) == (401, "authentication_error")
    assert refused(portal.post(alice, "/v1/messages", HELLO)) == (429, "rate_limit_error")
    assert refused(portal.post(bob, "/v1/messages", HELLO)) == (404, "not_found_error")
    assert refused(portal.post(alice, "/v1/messages", data=b"{")) == (400, "invalid_request_error")
    assert refused(portal.get(alice, "/v1/messages")) == (405, "invalid_request_error")
    assert refused(portal.post(alice, "/v1/messages/count_tokens", {"model": 5})) == (400, "invalid_request_error")
    version = {"anthropic-version": "2023-06-01"}
    assert refused(portal.post(alice, "/v1/nothing", {}, headers=version)) == (404, "not_found_error")
    assert not raw_engine.received


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, {"type": "error", "error": {"type": "NotFoundError", "message": "no"}}, (404, "not_found_error")),
        (400, {"error": {"message": "no", "type": "Bad Request", "code": 400}}, (400, "invalid_request_error")),
        (404, {"detail": "Not Found"}, (404, "not_found_error")),
        (500, {"type": "error", "error": {"type": "InternalServerError", "message": "no"}}, (502, "api_error")),
    ],
)
def test_refusals_of_the_engine(portal, engine, alice, raw_engine, status, body, expected):
    raw_engine.answer = whole(json.dumps(body).encode(), status=status)
    assert refused(portal.post(alice, "/v1/messages", HELLO)) == expected


def test_an_engine_that_is_gone(portal, engine, alice, raw_engine):
    raw_engine.stop()
    assert refused(portal.post(alice, "/v1/messages", HELLO)) == (503, "overloaded_error")


def test_a_stream_that_breaks_off_ends_with_an_error_event(portal, engine, alice, raw_engine, eventually):
    said = message(7, ["Hel", "lo"], 2)
    raw_engine.answer = streamed(said[: said.index(b"event: message_delta")], end=False)
    answer = portal.post(alice, "/v1/messages", {**HELLO, "stream": True})
    *_, last = answer.content.split(b"event: ")
    name, data = last.split(b"\ndata: ")
    assert (name, json.loads(data)["error"]["type"]) == (b"error", "api_error")
    eventually(lambda: [(row[0], row[2]) for row in charged()] == [(7, "failed")])
    assert charged()[0][1] >= 2


def test_an_error_event_of_the_engine_is_no_success(portal, engine, alice, raw_engine, eventually):
    broken = named("error", error={"type": "internal_error", "message": "EngineCore died"})
    raw_engine.answer = streamed(message(7, ["a"], 1).partition(b"event: message_delta")[0] + broken)
    answer = portal.post(alice, "/v1/messages", {**HELLO, "stream": True})
    assert answer.content.count(b"event: error") == 1
    eventually(lambda: [row[2] for row in charged()] == ["failed"])


def test_near_the_limit_the_engine_counts_as_it_will_charge(portal, engine, alice, raw_engine, limit):
    limit(alice, prompt=100)  # less than the bytes of the request, more than its tokens

    async def answer(request, writer):
        counting = request.path.endswith("count_tokens")
        body = b'{"input_tokens": 9}' if counting else b'{"usage": {"input_tokens": 9, "output_tokens": 1}}'
        await whole(body)(request, writer)

    raw_engine.answer = answer
    assert portal.post(alice, "/v1/messages", {**HELLO, "system": "Be brief."}).status_code == 200
    paths = [one.path for one in raw_engine.received]
    assert paths == ["/v1/messages/count_tokens", "/v1/messages"]
    assert raw_engine.received[0].json == {"model": "tiny", "messages": HELLO["messages"], "system": "Be brief."}


def test_the_first_event_leaves_before_the_second_is_there(portal, engine, alice, raw_engine):
    import asyncio
    import threading

    go_on = threading.Event()
    first, _, rest = message(7, ["a", "b"], 2).partition(b"\n\n")

    async def answer(request, writer):
        writer.write(STREAM_HEAD + chunk(first + b"\n\n"))
        await writer.drain()
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 10)
        writer.write(chunk(rest) + b"0\r\n\r\n")

    raw_engine.answer = answer
    with portal.post(alice, "/v1/messages", {**HELLO, "stream": True}, stream=True) as response:
        lines = response.iter_lines(chunk_size=1)
        assert next(lines) == b"event: message_start"
        go_on.set()
        assert b"event: message_stop" in list(lines)
