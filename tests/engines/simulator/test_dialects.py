"""OpenAI's responses, Anthropic's messages, scores: as vLLM 0.32 writes them."""

import json

import pytest

from engines.simulator import answers, tokens
from tests.waiting import wait_until

HELLO = [{"role": "user", "content": "Hello there"}]


def named(answer):
    """(name, data) of each event."""
    pairs = (block.split("\n") for block in answer.data.decode().split("\n\n") if block)
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


def test_a_response_in_one_piece_and_as_events_is_the_same(engine):
    whole = engine.post("/v1/responses", {"input": "Hello there", "max_output_tokens": 9}).json()
    assert (whole["object"], whole["status"]) == ("response", "incomplete")
    (message,) = whole["output"]
    text = message["content"][0]["text"]
    assert whole["usage"]["output_tokens"] == tokens.count_prompt(text) == 9
    events = named(engine.post("/v1/responses", {"input": "Hello there", "max_output_tokens": 9, "stream": True}))
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert all(name == data["type"] for name, data in events)
    assert (events[0][0], events[-1][0]) == ("response.created", "response.completed")
    deltas = [data["delta"] for name, data in events if name == "response.output_text.delta"]
    assert ("".join(deltas), len(deltas)) == (text, 9)
    assert events[-1][1]["response"]["usage"] == whole["usage"]


def test_a_response_costs_what_its_chat_costs(engine):
    chat = [{"role": "system", "content": "Be brief."}, *HELLO]
    answer = engine.post("/v1/responses", {"input": HELLO, "instructions": "Be brief."}).json()
    assert answer["usage"]["input_tokens"] == tokens.count_prompt(chat)
    parts = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello there"}]}]
    assert engine.post("/v1/responses", {"input": parts}).json()["usage"]["input_tokens"] == tokens.count_prompt(HELLO)


def test_a_message_in_one_piece_and_as_events_is_the_same(engine):
    body = {"model": "tiny", "max_tokens": 9, "messages": HELLO}
    whole = engine.post("/v1/messages", body).json()
    (block,) = whole["content"]
    assert (whole["type"], whole["role"], whole["stop_reason"]) == ("message", "assistant", "max_tokens")
    assert whole["usage"] == {"input_tokens": tokens.count_prompt(HELLO), "output_tokens": 9}
    events = named(engine.post("/v1/messages", {**body, "stream": True}))
    assert [name for name, _ in events if name != "content_block_delta"] == [
        "message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    told = "".join(data["delta"]["text"] for name, data in events if name == "content_block_delta")
    assert told == block["text"]
    assert events[0][1]["message"]["usage"] == {"input_tokens": tokens.count_prompt(HELLO), "output_tokens": 0}
    assert events[-2][1]["usage"] == whole["usage"]


def test_a_message_is_counted_without_being_answered(engine):
    before = engine.tokens()
    body = {"model": "tiny", "system": "Be brief.", "messages": HELLO}
    count = engine.post("/v1/messages/count_tokens", body).json()["input_tokens"]
    assert engine.tokens() == before
    assert engine.post("/v1/messages", {**body, "max_tokens": 1}).json()["usage"]["input_tokens"] == count


def test_thoughts_are_blocks_of_their_own(start):
    engine = start("--reasoning-parser", "qwen3")
    message = engine.post("/v1/messages", {"model": "acme/tiny", "max_tokens": 60, "messages": HELLO}).json()
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["content"][0]["thinking"] == answers.THOUGHT
    response = engine.post("/v1/responses", {"input": "Hello there", "stream": True})
    output = named(response)[-1][1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message"]


@pytest.mark.parametrize(
    ("body", "status", "kind", "anthropic"),
    [
        ({"model": "nope", "max_tokens": 1, "messages": HELLO}, 404, "NotFoundError", True),
        ({"model": "tiny", "max_tokens": 9999, "messages": HELLO}, 400, "BadRequestError", True),
        ({"model": "tiny", "messages": HELLO}, 400, "Bad Request", False),
        ({"model": "tiny", "max_tokens": 0, "messages": HELLO}, 400, "Bad Request", False),
    ],
)
def test_a_refused_message(engine, body, status, kind, anthropic):
    answer = engine.post("/v1/messages", body)
    assert (answer.status, answer.json()["error"]["type"]) == (status, kind)
    assert (answer.json().get("type") == "error") is anthropic


def test_a_message_that_fails_ends_with_an_error_event_and_a_response_breaks_off(engine):
    fails = {"vllm_xargs": {"simulate": "error-after:2"}, "stream": True}
    events = named(engine.post("/v1/messages", {"model": "tiny", "max_tokens": 9, "messages": HELLO, **fails}))
    assert (events[-1][0], events[-1][1]["error"]["type"]) == ("error", "internal_error")
    with pytest.raises(Exception, match="IncompleteRead"):
        engine.post("/v1/responses", {"input": "Hello", **fails})


def test_scores(start):
    engine = start(model="acme/bge-small")
    body = {"query": "near", "documents": ["far", "near", "elsewhere"]}
    answer = engine.post("/rerank", body).json()
    assert answer["results"][0]["index"] == 1
    assert answer["results"][0]["relevance_score"] == pytest.approx(1)
    assert answer["usage"]["prompt_tokens"] == 5
    assert len(engine.post("/v2/rerank", {**body, "top_n": 1}).json()["results"]) == 1
    scores = engine.post("/v1/score", {"text_1": "near", "text_2": ["far", "near"]}).json()
    assert [row["index"] for row in scores["data"]] == [0, 1]
    assert scores["data"][1]["score"] == pytest.approx(1)
    assert engine.post("/score", {"queries": ["a", "b"], "documents": ["a"]}).status == 400
    assert engine.post("/score", {"queries": 5, "documents": ["a"]}).status == 400
    wait_until(lambda: engine.tokens()[1] == 0)
