"""Requests whose answers must be the same from an engine and through the portal, byte for byte.

Only what differs between any two answers is masked: times, and random ids that the request id does not fix. An error's
code is a number at the engine and a text here, so of an error its status, message, type and param are compared.
"""

import json
import re
from dataclasses import dataclass

import requests

HELLO = [{"role": "user", "content": "Hello there"}]
MANY_LANGUAGES = "Zürich 日本語 العربية 👩\u200d👩\u200d👧 \u2028 \x00 \U0001d518\U0001d52b " * 8
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"enum": ["Ulm", "Bonn"]}}, "required": ["town"]},
    },
}
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SAID = {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]}
ASKED = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"town":"Ulm"}'}}

CHATS: dict[str, dict] = {
    "plain": {},
    "tools": {"tools": [TOOL], "tool_choice": "auto"},
    "named tool": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    "required tool": {"tools": [TOOL], "tool_choice": "required"},
    "no tool": {"tools": [TOOL], "tool_choice": "none"},
    "wrong tools": {"tools": [{"type": "function"}]},
    "tool results": {
        "messages": [
            *HELLO,
            {"role": "assistant", "content": None, "tool_calls": [ASKED]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ]
    },
    "json object": {"response_format": {"type": "json_object"}, "max_tokens": 20},
    "json schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
    },
    "structured outputs": {"structured_outputs": {"choice": ["yes", "no"]}},
    "guided regex": {"structured_outputs": {"regex": "[a-c]{3}"}},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "two answers": {"n": 2, "seed": 7},
    "stop": {"stop": ["o", "e"], "include_stop_str_in_output": True},
    "seed": {"seed": 9223372036854775807, "temperature": 0.30000000000000004},
    "penalties": {"frequency_penalty": 0.1, "presence_penalty": -0.1, "repetition_penalty": 1.1, "top_k": 5},
    "logit bias": {"logit_bias": {"100": 50, "200": -50.5}},
    "text parts": {"messages": [SAID]},
    "a picture": {"messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, PICTURE]}]},
    "many languages": {"messages": [{"role": "user", "content": MANY_LANGUAGES}]},
    "unknown fields": {"store": False, "metadata": {"a": "b"}, "x": [1, {"y": 1e300}]},
    "max_completion_tokens": {"max_completion_tokens": 3, "max_tokens": None},
    "min_tokens": {"min_tokens": 4},
    "token ids": {"return_token_ids": True},
    "too long": {"messages": [{"role": "user", "content": "word " * 3000}]},
    "too many tokens": {"max_tokens": 100_000},
    "wrong temperature": {"temperature": -1},
    "wrong role": {"messages": [{"role": 5}]},
    "no messages": {"messages": None},
    "wrong options": {"stream_options": {"include_usage": True}},
}
STREAMS: dict[str, dict] = {
    "usage": {"stream_options": {"include_usage": True}},
    "usage all along": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "no usage": {"stream_options": {"include_usage": False}},
    "only continuous": {"stream_options": {"continuous_usage_stats": True}},
    "null options": {"stream_options": None},
}
COMPLETIONS: dict[str, dict] = {
    "plain": {"max_tokens": 4},
    "default length": {},
    "echo": {"echo": True, "max_tokens": 3},
    "only echo": {"echo": True, "max_tokens": 0},
    "suffix": {"suffix": "end"},
    "best_of": {"best_of": 1, "max_tokens": 2},
    "logprobs": {"logprobs": 2, "max_tokens": 3},
    "two prompts": {"prompt": ["One", "Two words"], "max_tokens": 3},
    "token ids": {"prompt": [72, 101, 108], "max_tokens": 3},
    "lists of token ids": {"prompt": [[72, 101], [108]], "max_tokens": 3, "n": 2, "seed": 1},
    "many languages": {"prompt": MANY_LANGUAGES, "max_tokens": 3},
    "empty": {"prompt": ""},
    "none": {"prompt": None},
}
RESPONSES: dict[str, dict] = {
    "plain": {},
    "instructions": {"instructions": "Be brief."},
    "items": {
        "input": [
            {"role": "user", "content": "Hi"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        ]
    },
    "tools": {
        "tools": [{"type": "function", "name": "weather", "parameters": TOOL["function"]["parameters"]}],
        "tool_choice": "auto",
    },
    "a schema": {"text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}}},
    "too many tokens": {"max_output_tokens": 100_000},
    "no input": {"input": None},
}
MESSAGES: dict[str, dict] = {
    "plain": {},
    "system": {"system": "Be brief."},
    "blocks": {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    },
    "tools": {"tools": [{"name": "weather", "input_schema": TOOL["function"]["parameters"]}]},
    "stop": {"stop_sequences": ["o", "e"]},
    "top_k": {"top_k": 3, "top_p": 0.9},
    "too many tokens": {"max_tokens": 100_000},
    "no messages": {"messages": None},
    "no max_tokens": {"max_tokens": None},
}
EMBEDDINGS: dict[str, dict] = {
    "plain": {},
    "several": {"input": ["one", "two words", MANY_LANGUAGES[:50]]},
    "token ids": {"input": [[72, 101], [108]]},
    "float": {"encoding_format": "float"},
    "base64": {"encoding_format": "base64"},
    "dimensions": {"dimensions": 3},
    "empty": {"input": []},
    "too long": {"input": "word " * 3000},
    "none": {"input": None},
}


@dataclass(frozen=True)
class Asked:
    name: str
    path: str
    body: dict

    def __str__(self) -> str:
        return f"{self.path.removeprefix('/v1/')}: {self.name}"


def generating(model: str, limit: int = 6) -> list[Asked]:
    """For an engine that generates; each request asks for little unless it says otherwise."""
    base = {"model": model, "temperature": 0}
    chat = {**base, "messages": HELLO, "max_tokens": limit}
    completion = {**base, "prompt": "Once upon a time"}
    response = {**base, "input": "Hello there", "max_output_tokens": max(limit, 16)}
    message = {**base, "messages": HELLO, "max_tokens": limit}
    tables = [
        ("/v1/chat/completions", chat, CHATS),
        ("/v1/chat/completions", {**chat, "stream": True}, {**CHATS, **STREAMS}),
        ("/v1/completions", completion, COMPLETIONS),
        ("/v1/completions", {**completion, "stream": True}, {**COMPLETIONS, **STREAMS}),
        ("/v1/responses", response, RESPONSES),
        ("/v1/responses", {**response, "stream": True}, RESPONSES),
        ("/v1/messages", message, MESSAGES),
        ("/v1/messages", {**message, "stream": True}, MESSAGES),
        ("/v1/messages/count_tokens", {"model": model, "messages": HELLO}, {"plain": {}, "system": {"system": "Hi"}}),
        ("/tokenize", {"model": model, "messages": HELLO}, {"a chat": {}}),
        ("/tokenize", {"model": model, "prompt": MANY_LANGUAGES}, {"a text": {}, "texts": {"return_token_strs": True}}),
        ("/detokenize", {"model": model, "tokens": [72, 101, 108]}, {"ids": {}, "none": {"tokens": None}}),
    ]
    return _asked(tables)


def pooling(model: str) -> list[Asked]:
    """For an engine that makes vectors."""
    rerank = {"model": model, "query": "near", "documents": ["far", "near"]}
    score = {"model": model, "text_1": "near", "text_2": ["far", "near"]}
    tables = [
        ("/v1/embeddings", {"model": model, "input": "Hello there"}, EMBEDDINGS),
        *((path, rerank, {"plain": {}, "top": {"top_n": 1}}) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
        *((path, score, {"plain": {}, "wrong": {"text_2": 5}}) for path in ("/score", "/v1/score")),
        ("/tokenize", {"model": model, "prompt": "Hello"}, {"a text": {}}),
    ]
    return _asked(tables)


def _asked(tables) -> list[Asked]:
    asked = []
    for path, base, table in tables:
        for name, fields in table.items():
            whole = {**base, **fields}
            body = {key: value for key, value in whole.items() if value is not None or key == "stream_options"}
            asked.append(Asked(name + (", streamed" if whole.get("stream") else ""), path, body))
    return asked


_MASKS = (
    (re.compile(rb'"created(_at)?":\d+'), b'"created":0'),
    (re.compile(rb"\b(msg|rs|fc|call|resp|chatcmpl-tool)[_-][0-9A-Za-z]{8,}"), b"ID"),
    (re.compile(rb'"(id|call_id|signature)":"[0-9a-f]{9,}"'), b'"id":"ID"'),
    (re.compile(rb'"(id)":"(score|embd)-[^"]*"'), b'"id":"ID"'),
)


def masked(data: bytes) -> bytes:
    for pattern, replacement in _MASKS:
        data = pattern.sub(replacement, data)
    return data


def ask(url: str, asked: Asked, authorization: str) -> tuple[int, str, object]:
    """(status, content type, what was said): the whole body, or of an error all but its code."""
    body = json.dumps(asked.body, ensure_ascii=asked.name.startswith("many"))
    headers = {
        "Authorization": authorization, "Content-Type": "application/json", "X-Request-Id": "the-same-for-both",
        "anthropic-version": "2023-06-01",
    }  # fmt: skip
    answer = requests.post(url + asked.path, data=body.encode(), headers=headers, timeout=60)
    kind = answer.headers.get("content-type", "")
    if answer.status_code == 200:
        data = masked(answer.content)
        # The engine itself does not always tell several answers in the same order.
        several = asked.body.get("n") or isinstance(asked.body.get("prompt"), list)
        return 200, kind, sorted(data.split(b"\n\n")) if several else data
    error = answer.json()["error"]
    if asked.path.startswith("/v1/messages"):  # whose errors the portal writes as Anthropic does, the engine not always
        return answer.status_code, kind, error["message"]
    assert "code" in error, answer.text
    # The portal asks for counts, so that a refused stream may have a field more than the client sent.
    error["message"] = re.sub(r"<dict of \d+ items>", "<dict>", error["message"])
    return answer.status_code, kind, {name: error[name] for name in ("message", "type", "param")}
