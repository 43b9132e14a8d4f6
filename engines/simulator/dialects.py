"""Requests of OpenAI's responses and Anthropic's messages, told as the chats that they are. Pure.

Each function raises ApiError.
"""

from typing import Any

import msgspec

from engines.simulator import requests
from engines.simulator.errors import ApiError, bad_value, invalid
from engines.simulator.options import Options
from engines.simulator.requests import Body, Wanted

_SAME = (
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "min_tokens", "ignore_eos", "include_stop_str_in_output", "stop", "stream", "vllm_xargs",
)  # fmt: skip


def read_response(body: Body, options: Options) -> Wanted:
    if body.get("background"):
        raise bad_value("This vLLM engine does not support background mode.", "background")
    chat = {**_same(body), "messages": _response_messages(body), "max_tokens": body.get("max_output_tokens")}
    return requests.read_chat(_with_tools(chat, body, options), options)


def _response_messages(body: Body) -> list[Any]:
    given = body.get("input")
    if given is None:
        raise invalid("body.input", "missing", "Field required", dict(body))
    messages: list[Any] = []
    if instructions := requests.text(body, "instructions"):
        messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list):
        raise invalid("body.input", "string_type", "Input should be a valid string", given)
    return messages + [_response_message(place, item) for place, item in enumerate(given)]


def _response_message(place: int, item: Any) -> Any:
    if not isinstance(item, dict):
        raise invalid(f"body.input.{place}", "dict_type", "Input should be a valid dictionary", item)
    kind = item.get("type", "message")
    if kind == "function_call_output":
        return {"role": "tool", "content": _written(item.get("output"))}
    if kind == "function_call":
        return {"role": "assistant", "content": f"{item.get('name')}{item.get('arguments')}"}
    content = item.get("content")
    if isinstance(content, list):
        content = [
            {**part, "type": "text"}
            if isinstance(part, dict) and part.get("type") in ("input_text", "output_text", "text", "reasoning_text")
            else part
            for part in content
        ]
    return {"role": item.get("role", "assistant"), "content": content}


def read_message(body: Body, options: Options) -> Wanted:
    _require(body, "model", "messages", "max_tokens")
    most = requests.integer(body, "max_tokens")
    if most is None or most < 1:
        text = "Value error, max_tokens must be positive"
        raise invalid("body.max_tokens", "value_error", text, most)
    chat = {**_same(body), "messages": message_chat(body), "max_tokens": most, "stop": body.get("stop_sequences")}
    return requests.read_chat(_with_tools(chat, body, options), options)


def message_chat(body: Body) -> list[Any]:
    """The messages of a chat. Also what is counted without being answered."""
    _require(body, "model", "messages")
    given = body["messages"]
    if not isinstance(given, list):
        raise invalid("body.messages", "list_type", "Input should be a valid list", given)
    system = body.get("system")
    opening = [{"role": "system", "content": _blocks(system)}] if system else []
    return opening + [
        {**one, "content": _blocks(one.get("content"))} if isinstance(one, dict) else one for one in given
    ]


def _blocks(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [_block(block) if isinstance(block, dict) else block for block in content]


def _block(block: dict[str, Any]) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "tool_use":
        return {"type": "text", "text": f"{block.get('name')}{_written(block.get('input'))}"}
    if kind == "tool_result":
        return {"type": "text", "text": _written(block.get("content"))}
    if kind == "thinking":
        return {"type": "text", "text": str(block.get("thinking"))}
    return block


def message_tools(body: Body) -> str:
    tools = body.get("tools")
    return msgspec.json.encode(tools).decode() if tools else ""


def refusal(error: ApiError) -> ApiError:
    """An error as Anthropic's clients know it. A body of the wrong form is refused before vLLM knows who asks."""
    said = error.body.get("error")
    if not isinstance(said, dict) or said.get("type") == "Bad Request":
        return error
    body = {"type": "error", "error": {"type": said.get("type"), "message": said.get("message")}}
    return ApiError(error.status, body, error.headers)


def _same(body: Body) -> dict[str, Any]:
    return {name: body[name] for name in _SAME if name in body}


def _with_tools(chat: dict[str, Any], body: Body, options: Options) -> dict[str, Any]:
    if not body.get("tools"):
        return chat
    if not isinstance(body["tools"], list):
        raise invalid("body.tools", "list_type", "Input should be a valid list", body["tools"])
    choice = body.get("tool_choice", "auto")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    return {**chat, "tools": body["tools"], "tool_choice": "none" if kind == "none" else "auto"}


def _require(body: Body, *names: str) -> None:
    for name in names:
        if body.get(name) is None:
            raise invalid(f"body.{name}", "missing", "Field required", dict(body))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
