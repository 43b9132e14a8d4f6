"""Chats, completions, vectors: the answers of the stand-in, as vLLM 0.32 writes them."""

import base64
import struct

import pytest

from engines.simulator import answers, tokens
from tests.engines.simulator_process import (
    USAGE,
    chat_body,
    text_of,
)


def test_a_chat_in_one_piece(engine):
    answer = engine.post("/v1/chat/completions", chat_body(), **{"x-request-id": "portal-1"}).json()
    message = answer["choices"][0]["message"]
    assert answer["id"] == "chatcmpl-portal-1"
    assert (answer["object"], answer["model"]) == ("chat.completion", "tiny")
    assert message["content"].startswith("This is a simulated answer; no model was run. You said: Hello.")
    assert message["reasoning"] is None
    assert "tool_calls" not in message
    assert answer["choices"][0]["finish_reason"] == "stop"
    prompt = tokens.count_prompt(chat_body()["messages"])
    said = tokens.count_prompt(message["content"])
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "total_tokens": prompt + said,
        "completion_tokens": said,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def test_the_same_request_has_the_same_answer_whatever_the_seed(engine):
    first, second = (engine.chat(seed=seed, temperature=1.5).json() for seed in (1, 2))
    assert first["choices"] == second["choices"]


def test_history_makes_the_prompt_longer(engine):
    first = engine.chat("Who are you?").json()
    turn = [{"role": "user", "content": "Who are you?"}, first["choices"][0]["message"]]
    messages = [*turn, {"role": "user", "content": "And?"}]
    second = engine.post("/v1/chat/completions", {"messages": messages}).json()
    assert second["usage"]["prompt_tokens"] == tokens.count_prompt(messages)
    assert second["usage"]["prompt_tokens"] > sum(
        first["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    )
    assert "You said: And?" in second["choices"][0]["message"]["content"]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_cuts(engine, field):
    answer = engine.chat(**{field: "3"}).json()
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 3)
    assert answer["choices"][0]["message"]["content"] == "This is a"


def test_ignore_eos_goes_on_to_the_context_s_end(engine):
    answer = engine.chat(ignore_eos=True).json()
    assert answer["usage"]["total_tokens"] == 8192
    assert answer["choices"][0]["finish_reason"] == "length"


def test_min_tokens_makes_it_longer(engine):
    assert engine.chat(min_tokens=200).json()["usage"]["completion_tokens"] == 200


def test_n_answers_cost_n_times_their_tokens(engine):
    answer = engine.chat(n=3, max_tokens=5).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 15


def test_a_stream_names_the_role_then_tokens_then_the_reason(engine):
    answer = engine.chat(stream=True, max_tokens=4)
    chunks = answer.chunks()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:]] == ["This", " is", " a", " simul"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, None, "length"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


def test_a_stream_says_what_the_whole_answer_says(engine):
    whole = engine.chat("Grüße 😀!").json()["choices"][0]["message"]["content"]
    assert text_of(engine.chat("Grüße 😀!", stream=True).chunks()) == whole


def test_include_usage_adds_one_event(engine):
    chunks = engine.chat(max_tokens=3, **USAGE).chunks()
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 4, "total_tokens": 7, "completion_tokens": 3}
    assert not any("usage" in chunk for chunk in chunks[:-1])


def test_continuous_usage_is_in_every_event(engine):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = engine.chat(max_tokens=3, stream=True, stream_options=options).chunks()
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 3]
    alone = engine.chat(max_tokens=3, stream=True, stream_options={"continuous_usage_stats": True}).chunks()
    assert not any("usage" in chunk for chunk in alone)


def test_several_answers_in_one_stream(engine):
    chunks = engine.chat(n=2, max_tokens=3, **USAGE).chunks()
    assert [text_of(chunks, index) for index in (0, 1)] == ["This is a"] * 2
    assert chunks[-1]["usage"]["completion_tokens"] == 6


def test_an_event_counts_the_prompt_that_its_answer_is_to(engine):
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": ["one", "one, two"], "n": 2, "max_tokens": 1, "stream": True, "stream_options": options}
    *events, last = engine.post("/v1/completions", body).chunks()
    counted = {event["choices"][0]["index"]: event["usage"]["prompt_tokens"] for event in events}
    assert (counted, last["usage"]["prompt_tokens"]) == ({0: 1, 1: 1, 2: 3, 3: 3}, 4)


@pytest.mark.parametrize(
    ("prompt", "choices", "prompt_tokens"),
    [("Hello there", 1, 2), (["Hello", "there, you"], 2, 4), (tokens.encode("Hello there"), 1, 2)],
)
def test_completions(engine, prompt, choices, prompt_tokens):
    whole = engine.post("/v1/completions", {"prompt": prompt}).json()
    assert whole["object"] == "text_completion"
    assert whole["id"].startswith("cmpl-")
    assert len(whole["choices"]) == choices
    assert whole["usage"]["prompt_tokens"] == prompt_tokens
    assert whole["usage"]["completion_tokens"] == 16 * choices
    chunks = engine.post("/v1/completions", {"prompt": prompt, **USAGE}).chunks()
    for index, choice in enumerate(whole["choices"]):
        pieces = [one["text"] for chunk in chunks for one in chunk["choices"] if one["index"] == index]
        assert "".join(pieces) == choice["text"]
    assert chunks[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def test_a_stop_string_ends_answer_and_stream(engine):
    choice = engine.chat(stop=["model"]).json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "model")
    assert choice["message"]["content"] == "This is a simulated answer; no "
    chunks = engine.chat(stop="model", stream=True).chunks()
    assert text_of(chunks) == "This is a simulated answer; no "
    assert chunks[-1]["choices"][0]["stop_reason"] == "model"


def test_reasoning_is_apart_from_the_content(start):
    engine = start("--reasoning-parser", "any", "--simulate-token-seconds", "0")
    answer = engine.chat().json()
    message = answer["choices"][0]["message"]
    assert message["reasoning"] == answers.THOUGHT
    assert message["content"].startswith(answers.SIMULATED)
    chunks = engine.chat(stream=True).chunks()
    thought = "".join(chunk["choices"][0]["delta"].get("reasoning", "") for chunk in chunks)
    assert (thought, text_of(chunks)) == (message["reasoning"], message["content"])
    counted = tokens.count_prompt(message["reasoning"]) + tokens.count_prompt(message["content"])
    assert answer["usage"]["completion_tokens"] == counted


def test_tokenize_and_detokenize(engine):
    text = "Hello, Zürich 😀"
    answer = engine.post("/tokenize", {"prompt": text}).json()
    assert answer == {"count": 7, "max_model_len": 8192, "tokens": tokens.encode(text), "token_strs": None}
    assert engine.post("/detokenize", {"tokens": answer["tokens"]}).json() == {"prompt": text}


def test_tokenize_counts_a_chat_as_the_chat_is_billed(engine):
    messages = chat_body("Hello there")["messages"]
    counted = engine.post("/tokenize", {"messages": messages}).json()["count"]
    assert counted == engine.chat("Hello there").json()["usage"]["prompt_tokens"]


def test_embeddings(start):
    engine = start(model="acme/bge-small")
    answer = engine.post("/v1/embeddings", {"input": ["one", "two two"]}).json()
    vectors = [row["embedding"] for row in answer["data"]]
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 0
    assert [sum(x * x for x in vector) for vector in vectors] == pytest.approx([1, 1])
    assert vectors[0] != vectors[1]
    again = engine.post("/v1/embeddings", {"input": "one", "encoding_format": "base64"}).json()
    raw = base64.b64decode(again["data"][0]["embedding"])
    assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(vectors[0], rel=1e-6)
    assert engine.tokens() == (4, 0)
    assert engine.chat().json() == {"detail": "Not Found"}
