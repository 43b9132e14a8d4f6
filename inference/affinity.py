"""What two requests have in common whose prompts begin alike: an engine that has worked on the one has the beginning of
the other in its prefix cache. Pure.

By the first of these that is there: the conversation's id, OpenAI's `prompt_cache_key`, its `user`, the first part of
the prompt. A conversation is sent whole with each turn, so what counts of a prompt is what stays as it grows: all up to
the first message of the user.
"""

import hashlib
from collections.abc import Mapping

import msgspec

Fields = Mapping[str, msgspec.Raw]

NAMED = ("prompt_cache_key", "user")
BEFORE = ("system", "instructions")
"""Stand in front of the messages: Anthropic's, and those of OpenAI's responses."""
MESSAGES = ("messages", "input")
FIRST_BYTES = 4096
"""Of each part. Prompts that differ only behind that share as much of a cache."""
LEAST_BYTES = 64
"""About the 16 tokens of a block of vLLM's prefix cache: a shorter text has nothing to find there."""
_NULL = b"null"


class _Item(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"")


_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_item = msgspec.json.Decoder(_Item).decode


def key(user_id: int, *parts: bytes) -> bytes:
    """16 bytes. Of one user: engines keep the prefixes of users apart (`call.cache_salt`)."""
    digest = hashlib.blake2b(b"%d" % user_id, digest_size=16)
    for part in parts:
        digest.update(b"\0%d\0%b" % (len(part), part))
    return digest.digest()


def of_conversation(user_id: int, conversation_id: str) -> bytes:
    return key(user_id, b"conversation", conversation_id.encode())


def of_prompt(user_id: int, fields: Fields) -> bytes:
    """By the top level of a request's body, each value its JSON. b"": nothing to be affine to."""
    for name in NAMED:
        raw = _raw(fields, name)
        if raw:
            return key(user_id, name.encode(), raw)
    first = _first(fields)
    return key(user_id, b"prompt", *first) if first else b""


def _first(fields: Fields) -> list[bytes]:
    for name in MESSAGES:
        raw = _raw(fields, name)
        if raw:
            said = _up_to_the_user(raw) if raw.startswith(b"[") else [raw[:FIRST_BYTES]]
            return [*(part[:FIRST_BYTES] for before in BEFORE if (part := _raw(fields, before))), *said]
    prompt = _raw(fields, "prompt")
    return [prompt[:FIRST_BYTES]] if len(prompt) >= LEAST_BYTES else []


def _up_to_the_user(raw: bytes) -> list[bytes]:
    """The messages up to the first of the user, of which the content alone: a text is the same as a message and by
    itself. [] where they cannot be read, which is for the engine to say."""
    said: list[bytes] = []
    try:
        for one in _items(raw):
            item = _item(one)
            content = bytes(item.content)[:FIRST_BYTES]
            if item.role == "user":
                return [*said, content]
            said.append(item.role.encode() + b":" + content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return said


def _raw(fields: Fields, name: str) -> bytes:
    """b"" for null, and for an empty text."""
    raw = bytes(fields.get(name, b""))
    return b"" if raw in (_NULL, b'""') else raw
