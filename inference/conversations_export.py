"""A conversation as a file to take along."""

import json
from collections.abc import Mapping
from typing import Any

from rest_framework.utils.encoders import JSONEncoder

from inference.models import Conversation, Message

_WHO = {Message.Role.USER: "User", Message.Role.ASSISTANT: "Assistant"}


def as_json(whole: Mapping[str, Any]) -> str:
    """`whole`: what the API says of it."""
    return json.dumps(whole, cls=JSONEncoder, ensure_ascii=False, indent=2) + "\n"


def as_markdown(conversation: Conversation) -> str:
    """Each message is as it was said: a heading within it is not told from ours."""
    name = " ".join(conversation.shown_name.split())
    parts = [
        f"# {name or f'Conversation {conversation.number}'}",
        f"Started {conversation.created_at:%Y-%m-%d %H:%M} UTC",
    ]
    for message in conversation.messages.all():
        parts += [f"## {_WHO.get(message.role, message.role)}", message.content.strip("\n")]
    return "\n\n".join(parts) + "\n"
