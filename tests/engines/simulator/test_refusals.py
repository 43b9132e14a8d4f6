"""What the stand-in refuses, in vLLM's words and shapes."""

import json

import pytest

from engines.simulator import tokens
from tests.engines.simulator_process import (
    chat_body,
)


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
