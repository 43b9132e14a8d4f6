"""What a stored message of the original says: JSON `{"type": "human", "data": {"content": …}}`, or one of its older
forms in a list."""

import json
from collections.abc import Iterator
from typing import Any

from inference.models import Message
from vllm_portal.legacy.source import Unreadable
from vllm_portal.legacy.values import storable

SYSTEM = "system"
"""Kept as it is. It belongs to no turn, so it goes to no engine: a request has a system prompt of its own."""

Said = tuple[str, str]
"""A role, and what was said."""

_ROLES = {
    "human": Message.Role.USER, "humanmessage": Message.Role.USER, "humanmessagechunk": Message.Role.USER,
    "user": Message.Role.USER,
    "ai": Message.Role.ASSISTANT, "aimessage": Message.Role.ASSISTANT, "aimessagechunk": Message.Role.ASSISTANT,
    "assistant": Message.Role.ASSISTANT,
    "system": SYSTEM, "systemmessage": SYSTEM, "systemmessagechunk": SYSTEM,
}  # fmt: skip
_LISTS = ("messages", "history", "content", "conversation")


def from_json(written: str | None) -> Any:
    """Raises Unreadable."""
    try:
        return json.loads(written or "")
    except (ValueError, RecursionError):
        raise Unreadable("is not JSON") from None


def said(message: Any) -> Said:
    """Of a message's JSON. Raises Unreadable."""
    if not isinstance(message, dict):
        raise Unreadable("is no message")
    data = message.get("data") if isinstance(message.get("data"), dict) else message
    kind = message.get("type") or message.get("role")
    if kind == "chat":  # LangChain's message of a role of one's own
        kind = data.get("role")
    if not isinstance(kind, str) or kind.lower() not in _ROLES:
        raise Unreadable("has a type that is none of human, ai, system")
    if "content" not in data:
        raise Unreadable("has no content")
    return str(_ROLES[kind.lower()]), _text(data["content"])


def _text(content: Any) -> str:
    """A list of parts: the texts as they are, anything else as its JSON, so that nothing is lost."""
    if isinstance(content, str):
        return storable(content)
    if not isinstance(content, list):
        raise Unreadable("has a content that is no text")
    texts = [
        part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None for part in content
    ]
    return storable(
        "\n".join(
            text if isinstance(text, str) else json.dumps(part) for text, part in zip(texts, content, strict=True)
        )
    )


def in_list(written: str | None) -> Iterator[Said | Unreadable]:
    """Of an older conversation's `content`. None for an empty one. Raises Unreadable for what holds no list at all."""
    if written is None or not written.strip():
        return
    held = from_json(written)
    if isinstance(held, str):  # written as JSON twice
        held = from_json(held) if held.strip() else None
    if isinstance(held, dict):
        held = next((held[name] for name in _LISTS if isinstance(held.get(name), list)), held)
    if not held:
        return
    if not isinstance(held, list):
        raise Unreadable("content is no list of messages")
    for item in held:
        if _is_turn(item):
            yield str(Message.Role.USER), storable(item[0])
            yield str(Message.Role.ASSISTANT), storable(item[1])
            continue
        try:
            yield said(item)
        except Unreadable as error:
            yield error


def _is_turn(item: Any) -> bool:
    """[prompt, answer]"""
    return isinstance(item, list) and len(item) == 2 and all(isinstance(text, str) for text in item)
