"""Answers of /v1/responses as vLLM writes them, for `RawEngine`."""

import json

from tests.fakes.upstream import http, streamed


def compact(value) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def message(text):
    part = {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
    return {"id": "msg_1", "content": [part], "role": "assistant", "status": "completed", "type": "message"}


def response(request, *output, status="completed"):
    """As vLLM writes it: the id that it was asked to use, and null for what it was not told."""
    return {
        "id": request.get("request_id", "resp_of_the_engine"),
        "created_at": 1,
        "model": "tiny",
        "object": "response",
        "output": list(output),
        "parallel_tool_calls": True,
        "temperature": 0.7,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "previous_response_id": None,
        "status": status,
        "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
    }


def answering(*output, status="completed"):
    """An engine's answer of these items; without any, a message "answer to <the last input text>"."""

    async def answer(request, writer):
        items = output or [message(f"answer to {last_text(request.json)}")]
        writer.write(http(compact(response(request.json, *items, status=status))))

    return answer


def last_text(body):
    given = body["input"]
    content = given if isinstance(given, str) else given[-1].get("content", "")
    return content if isinstance(content, str) else content[-1]["text"]


def event(name, **fields) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), compact({"type": name, **fields}))


def streaming(text="hello", last="response.completed", end=True):
    async def answer(request, writer):
        begun = response(request.json, status="in_progress")
        events = [event("response.created", response=begun), event("response.output_text.delta", delta=text)]
        if last:
            events.append(event(last, response=response(request.json, message(text))))
        await streamed(*events, end=end)(request, writer)

    return answer


def got(raw_engine, at=-1):
    """What the engine was told, as (role, text) and other items."""
    given = raw_engine.received[at].json["input"]
    if isinstance(given, str):
        return given
    return [(item["role"], item["content"]) if "role" in item else item for item in given]
