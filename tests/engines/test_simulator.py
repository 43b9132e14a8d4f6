"""The stand-in engine, as a process, over HTTP. What vLLM 0.32 does is what is claimed of it here."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.simulator import answers, failures, misbehaviour, tokens
from engines.simulator.answers import Sampling, make_answer
from tests.engines.simulator_process import (
    COMMAND,
    ROOT,
    SimulatorProcess,
    chat_body,
    read_to_end,
    wait_until,
)

LONG = {"max_tokens": 8000, "ignore_eos": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def engine():
    """One engine for the tests that leave it as it was, without delays."""
    flags = ("--served-model-name", "tiny", "alias", "--max-model-len", "8K", "--simulate-token-seconds", "0")
    with SimulatorProcess(*flags) as process:
        yield process.ready()


@pytest.fixture
def start():
    """start(*flags): an engine of the test's own that listens; it is gone after the test."""
    started = []

    def make(*flags, **settings):
        started.append(SimulatorProcess(*flags, **settings))
        return started[-1].ready()

    yield make
    for process in started:
        process.close()


def run_to_end(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)


def text_of(chunks, index=0):
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


# Tokens and answers, without a process


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_text_is_its_tokens_joined(text):
    assert "".join(tokens.split(text)) == text
    assert tokens.decode(tokens.encode(text)) == text
    assert len(tokens.encode(text)) == tokens.count_prompt(text)


def test_ids_are_integers_that_json_keeps():
    assert max(tokens.encode("Hello_world, 😀\0 é")) < 2**53
    assert tokens.VOCABULARY_SIZE < 2**53


def test_a_chat_costs_two_tokens_a_message_and_one_for_the_answer():
    history = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Yes"}]
    assert tokens.count_prompt(history) == (2 + 2) + (2 + 1) + 1


def test_parts_of_a_message_count_as_one_text():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert tokens.count_prompt([{"role": "user", "content": parts}]) == tokens.count_prompt(
        [{"role": "user", "content": "one\ntwo"}]
    )


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(1, 300), st.booleans())
def test_an_answer_has_as_many_tokens_as_its_text(said, max_tokens, ignore_eos):
    answer = make_answer(said, Sampling(max_tokens, ignore_eos=ignore_eos))
    assert tokens.count_prompt(answer.content) == len(answer.pieces) <= max_tokens
    assert answer.content.startswith(answers.SIMULATED[: len(answer.content)])
    if answer.finish_reason == "stop":
        assert answers.NATURAL_MINIMUM <= len(answer.pieces) <= answers.NATURAL_MAXIMUM
    else:
        assert len(answer.pieces) == max_tokens


def test_the_first_complete_stop_string_cuts_the_answer():
    answer = make_answer("Hi", Sampling(100, stop=("run", "simulated")))
    assert (answer.content, answer.finish_reason, answer.stop_reason) == ("This is a ", "stop", "simulated")
    assert len(answer.pieces) == tokens.count_prompt("This is a simulated")
    kept = make_answer("Hi", Sampling(100, stop=("run", "simulated"), include_stop=True))
    assert kept.content == "This is a simulated"


def test_a_stop_string_counts_only_after_min_tokens():
    answer = make_answer("Hi", Sampling(100, min_tokens=6, stop=("simulated", "model")))
    assert answer.stop_reason == "model"


def test_it_needs_neither_django_nor_the_rest_of_the_project():
    code = (
        "import sys, engines.simulator.__main__\n"
        "own = [name for name in sys.modules if name.split('.')[0] in "
        "('django', 'accounts', 'inference', 'vllm_portal', 'celery', 'docker')\n"
        "       or name.startswith('engines.') and not name.startswith('engines.simulator')]\n"
        "print(own)"
    )
    assert run_to_end([sys.executable, "-c", code]).stdout.strip() == "[]"


# What says how it is


def test_health_and_ping_are_empty(engine):
    for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
        answer = engine.request(method, path)
        assert (answer.status, answer.data) == (200, b"")


def test_the_version_says_that_it_is_simulated(engine):
    assert engine.get("/version").json() == {"version": "0.32.0-simulated"}


def test_models_has_each_served_name(engine):
    listed = engine.get("/v1/models").json()
    assert [(card["id"], card["root"], card["max_model_len"]) for card in listed["data"]] == [
        ("tiny", "acme/tiny", 8192),
        ("alias", "acme/tiny", 8192),
    ]
    assert listed["object"] == "list"
    assert listed["data"][0]["owned_by"] == "vllm"


def test_metrics_have_vllm_s_names(engine):
    engine.chat(max_tokens=1)
    rows = engine.get("/metrics").data.decode()
    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens_total",
        "generation_tokens_total", "num_preemptions_total", "prefix_cache_queries_total", "prefix_cache_hits_total",
        "prompt_tokens_cached_total", "time_to_first_token_seconds_bucket", "e2e_request_latency_seconds_sum",
        "generation_tokens_created",
    ):  # fmt: skip
        row = rf'^vllm:{name}{{engine="0",(le="[^"]+",)?model_name="tiny"}} [0-9.e+-]+$'
        assert re.search(row, rows, re.MULTILINE), name
    assert re.search(r'^vllm:cache_config_info{.*num_gpu_blocks="\d+"} 1.0$', rows, re.MULTILINE)
    assert 'finished_reason="repetition"' in rows
    assert 'http_requests_total{handler="/v1/chat/completions",method="POST",status="2xx"}' in rows


# Answers


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


# Refusals


@pytest.mark.parametrize(
    ("fields", "status", "kind", "param", "text"),
    [
        (
            {"model": "nope"},
            404,
            "NotFoundError",
            "model",
            "The model `nope` does not exist. Valid aliases: tiny, alias.",
        ),
        ({"model": "nope", "stream": True}, 404, "NotFoundError", "model", "does not exist"),
        ({"messages": None}, 400, "Bad Request", "body.messages", "'type': 'missing', 'loc': 'body.messages'"),
        ({"messages": "Hello"}, 400, "Bad Request", "body.messages", "valid list"),
        ({"messages": [{"content": "x"}]}, 400, "Bad Request", "body.messages.0.role", "missing"),
        ({"max_tokens": "many"}, 400, "Bad Request", "body.max_tokens", "valid integer"),
        ({"max_tokens": [1]}, 400, "Bad Request", "body.max_tokens", "valid integer"),
        ({"max_tokens": 0}, 400, "BadRequestError", "max_tokens", "at least 1"),
        (
            {"max_tokens": 9000},
            400,
            "BadRequestError",
            "max_tokens",
            "max_tokens=9000 cannot be greater than max_model_len=8192. Please request fewer output tokens. "
            "(parameter=max_tokens, value=9000)",
        ),
        (
            {"max_tokens": 8190},
            400,
            "BadRequestError",
            "input_tokens",
            "This model's maximum context length is 8192 tokens. However, you requested 8190 output tokens and your "
            "prompt contains at least 3 input tokens",
        ),
        (
            {"messages": [{"role": "user", "content": "x " * 9000}]},
            400,
            "BadRequestError",
            "input_tokens",
            "maximum context length is 8192 tokens. However, your prompt contains at least 8193 input tokens",
        ),
        ({"temperature": -1}, 400, "BadRequestError", "temperature", "temperature must be non-negative, got -1.0."),
        ({"top_p": 2}, 400, "BadRequestError", "top_p", "got 2.0"),
        ({"n": 0}, 400, "BadRequestError", "n", "got 0"),
        ({"stream": "perhaps"}, 400, "Bad Request", "body.stream", "valid boolean"),
        ({"stop": [1]}, 400, "Bad Request", "body.stop", "valid string"),
        ({"stream_options": {}}, 400, "BadRequestError", "stream_options", "only be defined when"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            400,
            "BadRequestError",
            None,
            '"auto" tool choice',
        ),
        ({"vllm_xargs": {"simulate": "nonsense"}}, 400, "BadRequestError", "vllm_xargs", "unknown misbehaviour"),
        ({"vllm_xargs": {"simulate": "slow:-1"}}, 400, "BadRequestError", "vllm_xargs", "at least 0"),
    ],
)
def test_a_refused_chat(engine, fields, status, kind, param, text):
    answer = engine.post("/v1/chat/completions", chat_body() | fields)
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["type"], error["param"]) == (status, status, kind, param)
    assert text in error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 10**5, b'{"messages": [{"role": "\\ud800"}]}']
)
def test_a_body_that_is_no_json_object(engine, body):
    answer = engine.post("/v1/chat/completions", body)
    assert (answer.status, answer.json()["error"]["type"]) == (400, "Bad Request")


def test_another_content_type(engine):
    answer = engine.post("/v1/chat/completions", b"x=1", **{"content-type": "application/x-www-form-urlencoded"})
    assert answer.status == 400
    assert "Unsupported Media Type" in answer.json()["error"]["message"]


def test_unknown_fields_are_ignored(engine):
    assert engine.chat(username="alice", metadata={"a": [1]}, logit_bias=None).status == 200


def test_paths_and_methods(engine):
    wrong_method = engine.get("/v1/chat/completions")
    assert (wrong_method.status, wrong_method.json()) == (405, {"detail": "Method Not Allowed"})
    unknown = engine.post("/v1/nothing", {})
    assert (unknown.status, unknown.json()) == (404, {"detail": "Not Found"})
    slash = engine.get("/v1/models/?a=1")
    assert slash.status == 307
    assert slash.headers["location"].endswith("/v1/models?a=1")


def test_the_key_guards_only_v1(start):
    engine = start(env={"VLLM_API_KEY": "secret-key"})
    refused = engine.get("/v1/models")
    assert (refused.status, refused.json()) == (401, {"error": "Unauthorized"})
    assert engine.get("/v1/models", authorization="Bearer wrong").status == 401
    assert engine.get("/v1/models", authorization="Bearer secret-key").status == 200
    for path in ("/health", "/metrics", "/version"):
        assert engine.get(path).status == 200
    assert engine.post("/tokenize", {"prompt": "x"}).status == 200
    assert "secret-key" not in engine.log()


def test_a_model_without_a_chat_template(start):
    engine = start("--simulate-no-chat-template")
    for path in ("/v1/chat/completions", "/tokenize"):
        answer = engine.post(path, chat_body())
        assert answer.status == 400
        assert "default chat template is no longer allowed" in answer.json()["error"]["message"]
    assert engine.post("/v1/completions", {"prompt": "x"}).status == 200
    assert engine.post("/tokenize", {"prompt": "x"}).status == 200


def test_root_path_and_request_ids(start):
    engine = start("--root-path", "/engines/7", "--enable-request-id-headers")
    assert engine.get("/engines/7/v1/models").status == engine.get("/v1/models").status == 200
    assert engine.get("/v1/models", **{"x-request-id": "abc"}).headers["x-request-id"] == "abc"


def test_tools_are_part_of_the_prompt(start):
    engine = start("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    answer = engine.chat(tools=tools).json()
    text = json.dumps(tools, separators=(",", ":"))
    assert answer["usage"]["prompt_tokens"] == tokens.count_prompt(chat_body()["messages"], text) > 20


# Counting, leaving, waiting


def test_counters_are_the_sum_of_what_usage_said(engine):
    prompt_before, generated_before = engine.tokens()
    successes = engine.metric("vllm:request_success_total")

    def ask(number):
        if number % 3:
            return engine.chat("word " * number, max_tokens=number + 1).json()["usage"]
        return engine.chat("word " * number, max_tokens=number + 1, **USAGE).chunks()[-1]["usage"]

    with ThreadPoolExecutor(8) as pool:
        usages = list(pool.map(ask, range(30)))
    prompt, generated = engine.tokens()
    assert prompt - prompt_before == sum(usage["prompt_tokens"] for usage in usages)
    assert generated - generated_before == sum(usage["completion_tokens"] for usage in usages)
    assert engine.metric("vllm:request_success_total") - successes == 30


def test_a_refused_request_counts_nothing(engine):
    before = engine.tokens()
    engine.chat(max_tokens=0)
    engine.chat(model="nope")
    assert engine.tokens() == before


@pytest.mark.parametrize("pace", ["slow:0.01", "slow:0.0005"])
def test_a_stream_that_is_left_counts_exactly_what_was_sent(engine, pace):
    before = engine.tokens()
    successes = engine.metric("vllm:request_success_total")
    with engine.open("/v1/chat/completions", chat_body("Hi", pace, stream=True, **LONG)) as connection:
        data = b""
        while data.count(b'"content":') < 6:
            data += connection.recv(1 << 16)
        assert engine.running() == 1
        assert engine.metric("vllm:kv_cache_usage_perc") > 0
        # Half a close is a leave for the engine, but lets us read on and so know all that it sent.
        connection.shutdown(socket.SHUT_WR)
        left = time.monotonic()
        data += read_to_end(connection)
    wait_until(lambda: engine.running() == 0)
    assert time.monotonic() - left < 2  # the whole answer takes 4 s and more
    sent = data.count(b'"content":') - 1  # the first event has the role
    assert sent >= 5
    assert engine.tokens() == (before[0] + 4, before[1] + sent)
    assert engine.metric("vllm:request_success_total") == successes


def test_an_answer_in_one_piece_that_is_left_stops_too(engine):
    _, before = engine.tokens()
    with engine.open("/v1/chat/completions", chat_body("Hi", "slow:0.01", **LONG)):
        wait_until(lambda: engine.tokens()[1] > before)
    wait_until(lambda: engine.running() == 0)
    stopped = engine.tokens()
    engine.chat(max_tokens=1)
    assert engine.tokens()[1] == stopped[1] + 1


def test_who_leaves_before_the_first_token_costs_nothing(engine):
    before = engine.tokens()
    with engine.open("/v1/chat/completions", chat_body("Hi", "late:60", stream=True)):
        wait_until(lambda: engine.running() == 1)
    wait_until(lambda: engine.running() == 0)
    assert engine.tokens() == before


def test_max_num_seqs_makes_the_others_wait(start):
    engine = start("--max-num-seqs", "1")
    body = chat_body("Hi", "slow:0.01", **LONG)
    with (
        engine.open("/v1/chat/completions", body) as first,
        engine.open("/v1/chat/completions", chat_body("two", max_tokens=1)) as second,
    ):
        wait_until(lambda: engine.metric("vllm:num_requests_waiting") == 1)
        with engine.open("/v1/chat/completions", body):
            wait_until(lambda: engine.metric("vllm:num_requests_waiting") == 2)
        wait_until(lambda: engine.metric("vllm:num_requests_waiting") == 1)  # the third left the queue
        assert engine.running() == 1
        first.close()
        data = bytearray()
        wait_until(lambda: b'"finish_reason":"length"' in data or data.extend(second.recv(1 << 16)))
    wait_until(lambda: engine.running() == 0)
    assert engine.metric("vllm:num_requests_waiting") == 0


def test_many_streams_at_once_are_counted_exactly(start):
    engine = start("--simulate-token-seconds", "0.001", "--max-num-seqs", "32")

    def ask(number):
        return engine.chat(f"number {number}", max_tokens=40, ignore_eos=True, **USAGE).chunks()[-1]["usage"]

    with ThreadPoolExecutor(64) as pool:
        usages = list(pool.map(ask, range(128)))
    assert [usage["completion_tokens"] for usage in usages] == [40] * 128
    assert engine.tokens() == (sum(usage["prompt_tokens"] for usage in usages), 40 * 128)
    assert engine.metric("vllm:time_to_first_token_seconds_count") == 128


def test_the_pace_is_the_one_asked_for(engine):
    begun = time.monotonic()
    engine.chat(faults="slow:0.02,late:0.2", max_tokens=11)
    assert 0.38 < time.monotonic() - begun < 2


# Starts and ends


def test_the_log_of_a_start_has_vllm_s_lines_in_order(start):
    log = start("--max-model-len", "4k", "--enforce-eager", "-tp", "2").log()
    lines = [
        r"WARNING .* This is the simulated engine: no model is loaded",
        r"\(APIServer pid=\d+\) INFO \d\d-\d\d \d\d:\d\d:\d\d \[api_utils.py:286\] non-default args: {'model_tag'",
        r"Resolved architecture: LlamaForCausalLM",
        r"Using max model len 4000",
        r"\(EngineCore pid=\d+\) INFO .* Initializing a V1 LLM engine \(v0.32.0-simulated\) with config: .*=2,",
        r"Starting to load model acme/tiny\.\.\.",
        r"Loading safetensors checkpoint shards:  50% Completed \| 2/4",
        r"Loading weights took [\d.]+ seconds",
        r"GPU KV cache size: [\d,]+ tokens, Maximum concurrency for 4,000 tokens per request: [\d.]+x",
        r"init engine .* took [\d.]+ s",
        r"Starting vLLM server on http://127.0.0.1:\d+",
        r"Application startup complete.",
    ]
    assert re.search("(?s)" + ".*?".join(f"(?-s:{line})" for line in lines), log), log


def test_it_listens_only_when_it_has_loaded():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with SimulatorProcess("--simulate-never-healthy", "--port", str(port)) as engine:
        wait_until(lambda: engine.log().count("Loading safetensors") > 10)  # a start that works has 5
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        seen = len(engine.log())
        wait_until(lambda: len(engine.log()) > seen)
        engine.process.terminate()
        assert engine.wait() == 0


def test_a_start_that_hangs_says_nothing_more():
    with SimulatorProcess("--simulate-start-hangs") as engine:
        wait_until(lambda: "Starting to load model" in engine.log())
        engine.process.terminate()
        assert engine.wait() == 0
        assert "Loading safetensors" not in engine.log()


ROOT_CAUSES = {
    "max-model-len": "Value error, User-specified max_model_len (32768) is greater than the derived max_model_len",
    "unsupported-arch": "Value error, Model architectures ['ImaginaryForCausalLM'] are not supported",
    "quantization": "Value error, Unknown quantization method",
    "tensor-parallel": "ValueError: World size (4) is larger than the number of available GPUs (1)",
    "no-gpu": "RuntimeError: Failed to infer device type",
    "gated": "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
    "https://huggingface.co/acme/tiny",
    "no-such-model": "OSError: acme/tiny is not a local folder and is not a valid model identifier",
    "no-such-path": "HFValidationError: Repo id must be in the form",
    "offline": "LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder",
    "kv-cache": "ValueError: To serve at least one request with the model's max seq len (32768)",
    "gpu-memory": "ValueError: Free memory on device cuda:0",
    "cuda-oom": "torch.OutOfMemoryError: CUDA out of memory.",
    "shm": "RuntimeError: Insufficient space in /dev/shm",
}


@pytest.mark.parametrize("cause", sorted(ROOT_CAUSES))
def test_a_start_that_fails(cause):
    with SimulatorProcess("--simulate-start-failure", cause) as engine:
        assert engine.wait() == 1
        log = engine.log()
    assert ROOT_CAUSES[cause] in log
    assert "Starting vLLM server" not in log
    if failures.CAUSES[cause].phase == "load":
        assert re.search(r"\(EngineCore pid=\d+\) ERROR .*\] " + re.escape(ROOT_CAUSES[cause]), log)
        assert log.splitlines()[-1].startswith("RuntimeError: Engine core initialization failed. See root cause above.")


def test_every_cause_is_tested():
    assert set(failures.CAUSES) == {*ROOT_CAUSES, "oom-kill", "silent"}


@pytest.mark.parametrize(("cause", "code"), [("oom-kill", -signal.SIGKILL), ("silent", 0)])
def test_a_start_that_ends_without_a_word(cause, code):
    with SimulatorProcess("--simulate-start-failure", cause) as engine:
        assert engine.wait() == code
        assert "Error" not in engine.log().replace("OSError: [Errno 24]", "")


def test_a_local_model_that_is_not_there(tmp_path):
    with SimulatorProcess(model=str(tmp_path / "nope")) as engine:
        assert engine.wait() == 1
        assert "HFValidationError: Repo id must be" in engine.log()


def test_a_local_model_that_is_there(start, tmp_path):
    engine = start(model=str(tmp_path))
    refused = engine.chat(model="nope").json()["error"]["message"]
    assert refused == "The model `nope` does not exist. Valid aliases: <path>."


@pytest.mark.parametrize("flags", [["--nope", "1"], ["--task", "generate"], ["--swap-space", "4"]])
def test_a_flag_that_vllm_does_not_have(flags):
    ended = run_to_end([*COMMAND, "x", *flags])
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"vllm: error: unrecognized arguments: {' '.join(flags)}\n")


def test_flags_that_change_nothing_are_taken(start):
    flags = (
        "--dtype auto --gpu-memory-utilization 0.9 --seed 7 --tokenizer x/y -q awq --trust-remote-code --revision main "
        "--kv-cache-memory-bytes 1G --no-enable-log-requests --max_num_batched_tokens=2k --hf-token secret-token "
        "--runner generate --disable-access-log-for-endpoints /health,/metrics"
    )
    engine = start(*flags.split())
    assert engine.get("/health").status == 200
    assert engine.get("/version").status == 200
    wait_until(lambda: "GET /version" in engine.log())
    assert "GET /health" not in engine.log()
    assert "'quantization': 'awq'" in engine.log()
    assert "secret-token" not in engine.log()


def test_help_names_every_misbehaviour():
    shown = run_to_end([*COMMAND, "--help"]).stdout
    for kind in misbehaviour.KINDS:
        assert f"--simulate-{kind}" in shown


def test_a_port_that_is_taken(start):
    taken = start()
    with SimulatorProcess("--port", str(taken.port)) as second:
        assert second.wait() == 1
        assert "Address already in use" in second.log() or "address already in use" in second.log()


def test_sigterm_without_requests_ends_with_0_at_once(start):
    engine = start()
    engine.process.terminate()
    begun = time.monotonic()
    assert engine.wait() == 0
    assert time.monotonic() - begun < 3
    assert "[shutdown]" in engine.log()


def test_sigterm_breaks_streams_as_vllm_does(start):
    engine = start("--max-num-seqs", "1")
    with (
        engine.open("/v1/chat/completions", chat_body("Hi", "slow:0.05", stream=True, **LONG)) as stream,
        engine.open("/v1/chat/completions", chat_body()) as waiting,
    ):
        wait_until(lambda: engine.metric("vllm:num_requests_waiting") == 1)
        engine.process.terminate()
        cut, refused = read_to_end(stream), read_to_end(waiting)
    assert engine.wait() == 0
    error = '{"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", '
    error += '"type": "InternalServerError", "param": null, "code": 500}}'
    assert f"data: {error}\n\ndata: [DONE]\n\n".encode() in cut
    assert refused.startswith(b"HTTP/1.1 500")


def test_a_shutdown_timeout_lets_requests_end(start):
    engine = start("--shutdown-timeout", "15", "--simulate-token-seconds", "0.02")
    body = chat_body("Hi", stream=True, max_tokens=30, ignore_eos=True)
    with engine.open("/v1/chat/completions", body) as stream:
        data = stream.recv(1)
        engine.process.terminate()
        wait_until(lambda: "mode=drain" in engine.log())
        assert engine.chat(max_tokens=1).status == 200  # as vLLM does, it still takes new ones
        data += read_to_end(stream)
    assert b"data: [DONE]" in data
    assert b"error" not in data
    assert engine.wait() == 0


def test_a_shutdown_timeout_is_kept(start):
    engine = start("--shutdown-timeout", "1")
    with engine.open("/v1/chat/completions", chat_body("Hi", "slow:0.05", stream=True, **LONG)) as stream:
        wait_until(lambda: engine.running() == 1)
        engine.process.terminate()
        assert b"EngineCore encountered an issue" in read_to_end(stream)
    assert engine.wait() == 0


# Misbehaviour


def test_it_dies_in_mid_stream(start):
    engine = start("--simulate-dies-after", "5")
    with engine.open("/v1/chat/completions", chat_body(stream=True)) as stream:
        data = read_to_end(stream)
    assert data.count(b'"content":') == 1 + 5
    assert b"[DONE]" not in data
    assert not data.endswith(b"0\r\n\r\n")
    assert engine.wait() == 1


def test_one_request_can_be_spared(start):
    engine = start("--simulate-dies-after", "1", "--simulate-redirect")
    assert engine.chat(faults="none").status == 200
    assert engine.process.poll() is None


def test_an_error_in_mid_stream_is_followed_by_done(engine):
    before = engine.tokens()
    *events, error, done = engine.chat(faults="error-after:3", stream=True).events()
    assert len(events) == 1 + 3
    assert json.loads(error)["error"]["type"] == "InternalServerError"
    assert done == "[DONE]"
    assert engine.tokens() == (before[0] + 4, before[1] + 3)
    assert engine.running() == 0


def test_an_error_in_an_answer_of_one_piece_is_a_500(engine):
    answer = engine.chat(faults="error-after:3")
    assert (answer.status, answer.json()["error"]["code"]) == (500, 500)


@pytest.mark.parametrize(("fault", "stream"), [("hangs", False), ("hangs-after:2", True), ("hangs-after:2", False)])
def test_it_hangs_until_the_client_leaves(engine, fault, stream):
    data = bytearray()
    with engine.open("/v1/chat/completions", chat_body("Hi", fault, stream=stream)) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            read_to_end(connection, data)
    assert data.count(b'"content":') == (3 if stream else 0)
    assert b"[DONE]" not in data
    wait_until(lambda: engine.running() == 0)


def test_a_truncated_stream_looks_whole_to_http(engine):
    answer = engine.chat(faults="truncated-after:2", stream=True)
    assert len(answer.events()) == 1 + 2
    assert "[DONE]" not in answer.events()


@pytest.mark.parametrize("stream", [True, False])
def test_a_cut_answer_is_broken_http(engine, stream):
    with pytest.raises(http.client.IncompleteRead):
        engine.chat(faults="cut-after:2", stream=stream)


@pytest.mark.parametrize(
    ("fault", "completion_tokens"),
    [("usage-off:2", 7), ("usage-off:-2", 3), ("usage-huge", 10**9), ("usage-negative", -6)],
)
def test_wrong_usage_and_right_counters(engine, fault, completion_tokens):
    before = engine.tokens()
    whole = engine.chat(faults=fault, max_tokens=5).json()["usage"]
    last = engine.chat(faults=fault, max_tokens=5, **USAGE).chunks()[-1]["usage"]
    assert whole["completion_tokens"] == last["completion_tokens"] == completion_tokens
    assert whole["total_tokens"] == whole["prompt_tokens"] + completion_tokens
    assert engine.tokens() == (before[0] + 8, before[1] + 10)


def test_absent_usage(engine):
    assert "usage" not in engine.chat(faults="usage-absent").json()
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = engine.chat(faults="usage-absent", stream=True, stream_options=options).chunks()
    assert not any("usage" in chunk for chunk in chunks)


def test_invalid_json(engine):
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        engine.chat(faults="invalid-json").json()
    events = engine.chat(faults="invalid-json", stream=True).events()
    broken = 0
    for text in events[:-1]:
        try:
            json.loads(text)
        except ValueError:
            broken += 1
    assert broken == 1


def test_a_very_long_line(engine):
    answer = engine.chat(faults="long-line:300000", stream=True)
    assert max(map(len, answer.events())) > 300_000
    assert text_of(answer.chunks()) == text_of(engine.chat(stream=True).chunks())
    assert len(engine.chat(faults="long-line").data) > 1 << 20


def test_other_answers_than_json(engine):
    page = engine.chat(faults="wrong-content-type")
    assert (page.status, page.headers["content-type"]) == (200, "text/html")
    away = engine.chat(faults="redirect:http://127.0.0.1:1/x")
    assert (away.status, away.headers["location"]) == (302, "http://127.0.0.1:1/x")
    busy = engine.chat(faults="status:503")
    assert (busy.status, busy.json()["error"]["code"]) == (503, 503)


def test_characters_come_in_halves(engine):
    with engine.open("/v1/chat/completions", chat_body("Hi", "split-utf8", stream=True)) as connection:
        packets = []
        while not packets or b"[DONE]" not in packets[-1]:
            packets.append(connection.recv(1 << 16))
    # Each chunk of HTTP that ends within a character: its last byte before the CRLF begins one.
    assert any(packet[-3:-2] and packet[-3] >= 0xC0 and packet.endswith(b"\r\n") for packet in packets)
    assert "é€😀" in text_of(engine.chat(faults="split-utf8", stream=True).chunks())


def test_unhealthy_after_some_requests(start):
    engine = start("--simulate-unhealthy-after", "2")
    assert [engine.chat(max_tokens=1).status for _ in range(3)] == [200, 200, 500]
    answer = engine.get("/health")
    assert (answer.status, answer.data) == (503, b"")


def test_a_health_check_that_hangs(start):
    engine = start("--simulate-health-hangs")
    with engine.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert engine.chat().status == 200


def test_the_process_leaves_no_thread_or_child(start):
    engine = start()
    assert engine.chat().status == 200
    children = f"/proc/{engine.process.pid}/task/{engine.process.pid}/children"
    if not os.path.exists(children):
        pytest.skip("no /proc here")
    with open(children) as file:
        assert file.read() == ""
