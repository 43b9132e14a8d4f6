"""The body of an inference request: what the portal must know of it, and what it changes. Pure.

Only the top level is decoded; values stay the bytes that they were. What is sent on is encoded anew from it, so that
a key that came twice cannot mean one thing here and another to the engine.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec

from inference.errors import InvalidRequest

Raw = msgspec.Raw
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.encode
_TRUE, _FALSE, _NULL = b"true", b"false", b"null"

_NOT_TEXT = (b'"image', b'"audio', b'"input_audio', b'"video', b'"file')
MAX_CHOICES = 16
COMPLETION_MAX_TOKENS = 16  # OpenAI's and vLLM's default for /v1/completions without max_tokens
# Run code or read memory in the engine, or choose what the portal chooses.
FORBIDDEN = {
    "chat_template": "The chat template is the model's.",
    "prompt_embeds": "Send text or token ids instead.",
    "kv_transfer_params": "It is the operator's to set.",
    "cache_salt": "The portal sets it.",
    "priority": "The portal sets it.",
}


@dataclass(slots=True)
class Body:
    """A parsed request body. `fields` maps each top-level key to its raw JSON."""

    fields: dict[str, Raw]
    size: int
    model: str | None
    stream: bool = False
    keep_usage: bool = False
    keep_continuous: bool = False
    max_tokens: int | None = None
    """None: the client left it to the engine, which goes on to the end of the model's context."""
    max_tokens_field: str = "max_tokens"
    choices_per_prompt: int = 1
    prompts: int = 1
    text_only: bool = True
    """The prompt is text in this body, so its bytes bound its tokens; images and the like are not."""

    _changes: dict[str, Any] = field(default_factory=dict)

    @property
    def choices(self) -> int:
        return self.choices_per_prompt * self.prompts

    def set(self, key: str, value: Any) -> None:
        self._changes[key] = value

    def encode(self) -> bytes:
        """The body to send to the engine."""
        return _encode({**self.fields, **self._changes})


class Kind(Enum):
    """What an endpoint does with its body."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"


def parse(data: bytes, kind: Kind) -> Body:
    """Raises InvalidRequest that names the field."""
    try:
        fields = _decode_object(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not a JSON object: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None
    for name, why in FORBIDDEN.items():
        if name in fields and not _is_null(fields[name]):
            raise InvalidRequest(f"{name} is not allowed. {why}", param=name, code="unsupported_parameter")
    body = Body(fields, len(data), _value(fields, "model", str))
    if kind is Kind.EMBEDDING:
        body.prompts = _prompts(fields.get("input"))
    else:
        _read_generation(body, kind)
    return body


def _read_generation(body: Body, kind: Kind) -> None:
    fields = body.fields
    body.stream = bool(_value(fields, "stream", bool))
    body.choices_per_prompt = _within("n", _value(fields, "n", int), 1, MAX_CHOICES) or 1
    best_of = _within("best_of", _value(fields, "best_of", int), 1, MAX_CHOICES)
    if best_of and best_of > body.choices_per_prompt:
        raise InvalidRequest("best_of above n is not supported.", param="best_of", code="unsupported_parameter")
    names = ("max_completion_tokens", "max_tokens") if kind is Kind.CHAT else ("max_tokens",)
    for name in names:
        limit = _within(name, _value(fields, name, int), 0, 2**31 - 1)
        if limit is not None:
            body.max_tokens, body.max_tokens_field = limit, name
            break
    if kind is Kind.COMPLETION and "max_tokens" not in fields:
        body.max_tokens = COMPLETION_MAX_TOKENS
    body.prompts = _prompts(fields.get("prompt"))
    messages = bytes(fields.get("messages", b""))
    # Only a message of typed parts can hold anything but text.
    body.text_only = b'"type"' not in messages or not any(kind in messages for kind in _NOT_TEXT)
    if not body.stream:
        return
    options = _value(fields, "stream_options", dict) or {}
    body.keep_usage = options.get("include_usage") is True
    body.keep_continuous = body.keep_usage and options.get("continuous_usage_stats") is True
    # Counted in each chunk, a stream that is cut off has an exact count.
    body.set("stream_options", {**options, "include_usage": True, "continuous_usage_stats": True})


def _prompts(raw: Raw | None) -> int:
    """How many prompts `prompt` or `input` holds: a list of texts or of token lists is several, else it is one."""
    if raw is None or not bytes(raw).lstrip().startswith(b"["):
        return 1
    try:
        items = msgspec.json.decode(raw, type=list[Raw])
    except msgspec.DecodeError:
        return 1
    if not items or bytes(items[0])[:1] not in (b'"', b"[", b"{"):
        return 1  # token ids
    return len(items)


def _is_null(raw: Raw) -> bool:
    return bytes(raw) == _NULL


def _value(fields: dict[str, Raw], name: str, kind: type) -> Any:
    """The decoded value of a field; None when it is missing or null. Raises InvalidRequest for another type."""
    raw = fields.get(name)
    if raw is None or _is_null(raw):
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError:
        names = {str: "a string", int: "an integer", bool: "true or false", dict: "an object"}
        raise InvalidRequest(f"{name} must be {names[kind]}.", param=name, code="invalid_type") from None


def _within(name: str, value: int | None, low: int, high: int) -> int | None:
    if value is not None and not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low} and {high}.", param=name, code="invalid_value")
    return value


def prompt_bound(body: Body, max_model_len: int, allowance: int = 256) -> int:
    """An upper bound of the prompt's tokens, without a tokenizer: a token is at least a byte of the body, a chat
    template adds some (`allowance`), and no prompt is longer than the model's context."""
    longest = max_model_len * body.prompts
    return min(body.size + allowance * body.prompts, longest) if body.text_only else longest
