"""Streams of named events: what passes, what is counted, and when."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.endpoints import ENDPOINTS, MESSAGES, RESPONSES
from inference.errors import EngineError
from inference.sse import BadStream

MESSAGE_BODY = MESSAGES.parse(b'{"model": "m", "max_tokens": 9, "messages": [], "stream": true}')
RESPONSE_BODY = RESPONSES.parse(b'{"model": "m", "input": "x", "stream": true}')


def named(name: str, **data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data}, separators=(',', ':'))}\n\n".encode()


def message(prompt: int, texts: list[str], generated: int, **usage: int) -> bytes:
    start = {"id": "x", "usage": {"input_tokens": prompt, "output_tokens": 0, **usage}}
    deltas = [named("content_block_delta", delta={"type": "text_delta", "text": text}, index=0) for text in texts]
    told = {"input_tokens": prompt, "output_tokens": generated, **usage}
    ending = named("message_delta", delta={"stop_reason": "end_turn"}, usage=told) + named("message_stop")
    return named("message_start", message=start) + b"".join(deltas) + ending


def response(prompt: int, texts: list[str], generated: int, ending: str = "response.completed") -> bytes:
    deltas = [named("response.output_text.delta", delta=text, logprobs=[]) for text in texts]
    usage = {"input_tokens": prompt, "output_tokens": generated, "input_tokens_details": {"cached_tokens": 2}}
    return (
        named("response.created", response={"usage": None})
        + b"".join(deltas)
        + named(ending, response={"id": "r", "usage": usage})
    )


hostile = st.text(max_size=30) | st.sampled_from(['"usage":{"input_tokens":9}', "\n\n", "event: message_stop", "}"])


@given(texts=st.lists(hostile, max_size=4), at=st.integers(0, 4000))
@pytest.mark.parametrize("tell", [message, response])
def test_whatever_is_said_and_wherever_packets_end_every_byte_passes(tell, texts, at):
    endpoint, body = (MESSAGES, MESSAGE_BODY) if tell is message else (RESPONSES, RESPONSE_BODY)
    whole = tell(7, texts, len(texts))
    at %= len(whole) + 1
    stream = endpoint.stream(body)
    assert stream.feed(whole[:at]) + stream.feed(whole[at:]) + stream.finish() == whole
    assert (stream.usage().prompt_tokens, stream.usage().generated_tokens) == (7, len(texts))
    assert (stream.done, stream.failed, stream.final, stream.text()) == (True, False, True, None)


def test_a_message_that_is_cut_off_knows_its_prompt_and_what_went_by():
    stream = MESSAGES.stream(MESSAGE_BODY)
    whole = message(7, ["Hel", "lo"], 2)
    stream.feed(whole[: whole.index(b"event: message_delta")])
    assert (stream.usage().prompt_tokens, stream.usage().generated_tokens) == (7, 2)
    assert (stream.final, stream.done, stream.text(), stream.counts_along) == (False, False, "Hello", False)


def test_a_response_that_is_cut_off_knows_what_went_by():
    stream = RESPONSES.stream(RESPONSE_BODY)
    stream.feed(response(7, ["Hel", "lo"], 2).rpartition(b"event: response.completed")[0])
    assert (stream.usage().prompt_tokens, stream.usage().generated_tokens) == (0, 2)
    assert (stream.final, stream.text()) == (False, "Hello")


def test_what_was_cached_is_part_of_a_messages_prompt():
    stream = MESSAGES.stream(MESSAGE_BODY)
    stream.feed(message(3, ["a"], 1, cache_read_input_tokens=16, cache_creation_input_tokens=4))
    assert (stream.usage().prompt_tokens, stream.usage().cached_tokens) == (23, 16)
    stream = RESPONSES.stream(RESPONSE_BODY)
    stream.feed(response(7, ["a"], 1))
    assert (stream.usage().prompt_tokens, stream.usage().cached_tokens) == (7, 2)


@pytest.mark.parametrize(("ending", "failed"), [("response.incomplete", False), ("response.failed", True)])
def test_a_response_ends_in_several_ways(ending, failed):
    stream = RESPONSES.stream(RESPONSE_BODY)
    stream.feed(response(7, ["a"], 1, ending))
    assert (stream.done, stream.failed, stream.usage().generated_tokens) == (True, failed, 1)


def test_an_error_within_a_message_is_told_as_anthropic_tells_it():
    stream = MESSAGES.stream(MESSAGE_BODY)
    told = stream.feed(named("error", error={"type": "internal_error", "message": "EngineCore died"}))
    assert (stream.done, stream.failed) == (True, True)
    data = json.loads(told.removeprefix(b"event: error\ndata: "))
    assert (data["type"], data["error"]) == ("error", {"type": "api_error", "message": "EngineCore died"})


def test_an_error_within_a_response_is_told_as_openai_tells_it():
    event = RESPONSES.error_event(EngineError("It broke."))
    data = json.loads(event.removeprefix(b"event: error\ndata: "))
    assert (data["type"], data["code"], data["message"]) == ("error", "engine_error", "It broke.")
    assert data["error"]["code"] == "engine_error"


@pytest.mark.parametrize(
    "event", [b"event: message_delta\ndata: {\n\n", b'event: content_block_delta\ndata: {"delta":5}\n\n']
)
def test_an_event_that_is_not_what_its_name_says_is_refused(event):
    with pytest.raises(BadStream):
        MESSAGES.stream(MESSAGE_BODY).feed(event)


@pytest.mark.parametrize("event", [b": a comment\n\n", b"data: {}\n\n", b"event: ping\ndata: {}\n\n", b"\n\n"])
def test_what_is_not_known_passes(event):
    assert MESSAGES.stream(MESSAGE_BODY).feed(event) == event
    assert RESPONSES.stream(RESPONSE_BODY).feed(event) == event


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"usage":null}', b'{"usage":5}', b"\xff"])
def test_a_whole_answer_without_usage_has_none(data):
    assert MESSAGES.usage(data) is None
    assert RESPONSES.usage(data) is None
    assert ENDPOINTS["/tokenize"].usage(data).prompt_tokens == 0
