"""A toy tokenizer: reversible, deterministic, without a vocabulary file. Pure.

A token is up to five ASCII letters, digits or underscores, or one ASCII punctuation mark, each with the one space
before it; or any other single character. So "Hello, world" is "Hello" "," " world", and "simulated" is "simul" "ated".
A token's id is its UTF-8 bytes as one number. A chat's prompt has two tokens around each message (a header that
names the role, an end mark) and, at last, the header of the answer.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_TOKEN = re.compile(r" ?[A-Za-z0-9_]{1,5}| ?[!-/:-@\[-^`{-~]|[\s\S]")

_FIRST_SPECIAL = 1 << 48  # six bytes are the longest token, so no text has an id from here on
_SPECIALS = ("<|end|>", "<|other|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>")
_SPECIAL_IDS = {text: _FIRST_SPECIAL + place for place, text in enumerate(_SPECIALS)}
_END = _SPECIAL_IDS["<|end|>"]
VOCABULARY_SIZE = _FIRST_SPECIAL + len(_SPECIALS)


def split(text: str) -> list[str]:
    """The tokens' texts; joined they are `text` again."""
    return _TOKEN.findall(text)


def encode(text: str) -> list[int]:
    return [int.from_bytes(piece.encode()) for piece in split(text)]


def decode(ids: Iterable[int]) -> str:
    """The text of token ids, which must be in range(VOCABULARY_SIZE). What is no UTF-8 becomes U+FFFD."""
    return "".join(_piece(number) for number in ids)


def encode_chat(
    messages: Sequence[Mapping[str, Any]], tools: str = "", add_generation_prompt: bool = True
) -> list[int]:
    """The prompt that the chat template makes. `tools` is the request's list of tools as JSON text."""
    ids: list[int] = []
    if tools:
        ids += [_SPECIAL_IDS["<|tools|>"], *encode(tools), _END]
    for message in messages:
        ids += [_header(message.get("role", "")), *encode(message_text(message)), _END]
    if add_generation_prompt:
        ids.append(_header("assistant"))
    return ids


def count_prompt(prompt: str | Sequence[Mapping[str, Any]] | Sequence[int], tools: str = "") -> int:
    """What `usage.prompt_tokens` will be for a text, for token ids, or for a chat's messages."""
    if isinstance(prompt, str):
        return len(split(prompt))
    if prompt and isinstance(prompt[0], int):
        return len(prompt)
    return len(encode_chat(prompt, tools))  # type: ignore[arg-type]


def message_text(message: Mapping[str, Any]) -> str:
    """A message's content as one text: parts are joined by line breaks, calls of tools follow as they were written."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(part if isinstance(part, str) else part.get("text", "") for part in content)
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        content += f"{function.get('name', '')}{function.get('arguments', '')}"
    return content


def _header(role: str) -> int:
    return _SPECIAL_IDS.get(f"<|{role}|>", _SPECIAL_IDS["<|other|>"])


def _piece(number: int) -> str:
    if number >= _FIRST_SPECIAL:
        return _SPECIALS[number - _FIRST_SPECIAL]
    size = max(1, (number.bit_length() + 7) // 8)
    return number.to_bytes(size).decode("utf-8", "replace")
