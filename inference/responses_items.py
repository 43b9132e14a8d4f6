"""The items of `/v1/responses`: what a request says and what an answer holds, as JSON that is sent again with a later
request. Pure. An item that nobody here knows is kept as it is, and says nothing that could be shown."""

from dataclasses import dataclass
from typing import Any

import msgspec

from inference.errors import InvalidRequest

Raw = msgspec.Raw


@dataclass(frozen=True, slots=True)
class ItemTurn:
    """One turn: its items as a JSON list, and what of them is text that a person said or was told."""

    prompt: str
    answer: str
    items: str


class _Part(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    type: str = "message"
    role: str = ""
    content: str | list[_Part] | None = None
    name: str = ""
    arguments: str = ""
    input: str = ""
    output: str | list[_Part] | None = None

    @property
    def by_model(self) -> bool:
        return self.role == "assistant" or self.type in ("reasoning", "function_call", "custom_tool_call")


_UNKNOWN = _Item("unknown")
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_items = msgspec.json.Decoder(str | list[Raw]).decode
_encode = msgspec.json.encode


def of_input(raw: bytes) -> list[Raw]:
    """The items of a request's `input`; a text is one message. Raises InvalidRequest."""
    try:
        msgspec.json.decode(raw)  # all of it, unlike the next line: what is kept must be readable later
        given = _decode_items(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("input must be a string or a list of items.", param="input", code="invalid_type") from None
    return [Raw(_encode({"role": "user", "content": given}))] if isinstance(given, str) else given


def of_output(output: list[Raw]) -> list[Raw]:
    """The items of an answer as a later request sends them: messages as plain text, calls as they are; what the model
    thought on the way is not sent again."""
    items = []
    for raw in output:
        item = _read(raw)
        if item.type == "message":
            items.append(Raw(_encode({"role": "assistant", "content": _text(item.content)})))
        elif item.type != "reasoning":
            items.append(raw)
    return items


def of_text(prompt: str, answer: str) -> str:
    """A turn of which only the text is known, as a JSON list of items."""
    return _encode([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]).decode()


def split(items: list[Raw]) -> list[list[Raw]]:
    """Into turns: one begins where somebody else speaks after the model did. The last one has no answer yet; [] has
    one turn without items."""
    turns: list[list[Raw]] = [[]]
    model_spoke = False
    for raw in items:
        item = _read(raw)
        if model_spoke and item.type == "message" and not item.by_model:
            turns.append([])
            model_spoke = False
        model_spoke = model_spoke or item.by_model
        turns[-1].append(raw)
    return turns


def turn_of(items: list[Raw]) -> ItemTurn:
    """Where nobody said anything, tools did: their results stand for the prompt, the calls for the answer."""
    read = [_read(raw) for raw in items]
    prompts = [_text(item.content) for item in read if item.role == "user"]
    results = [_text(item.output) for item in read if item.type.endswith("_call_output")]
    answers = [_text(item.content) for item in read if item.role == "assistant"]
    calls = [f"{item.name}({item.arguments or item.input})" for item in read if item.type.endswith("tool_call")]
    calls += [f"{item.name}({item.arguments})" for item in read if item.type == "function_call"]
    return ItemTurn(_joined(prompts) or _joined(results), _joined(answers) or _joined(calls), joined([_list(items)]))


def joined(turns: list[str]) -> str:
    """JSON lists of items as one."""
    return "[" + ",".join(inner for turn in turns if (inner := turn.strip()[1:-1].strip())) + "]"


def _list(items: list[Raw]) -> str:
    return _encode(items).decode()


def _joined(texts: list[str]) -> str:
    return "\n\n".join(text for text in texts if text)


def _read(raw: Raw) -> _Item:
    try:
        return _decode_item(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _UNKNOWN


def _text(content: Any) -> str:
    if not isinstance(content, list):
        return content or ""
    return "\n".join(part.text or part.refusal or f"[{part.type}]" for part in content)
