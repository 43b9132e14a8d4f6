"""The body of an inference request: what the portal must know of it, and what it changes. Pure.

Only the top level is decoded; values stay the bytes that they were. What is sent on is encoded anew from it, so that
a key that came twice cannot mean one thing here and another to the engine.
"""

from typing import Any

import msgspec

from inference import affinity
from inference.errors import InvalidRequest
from inference.media import holds_media, may_hold_media

Raw = msgspec.Raw
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.encode
_DECODERS = {kind: msgspec.json.Decoder(kind | None).decode for kind in (str, int, bool, dict)}
_NULL = b"null"

MAX_CHOICES = 16
MOST_TOKENS = 2**31 - 1
# What engines are compared by (`Body.weight`), and nothing else.
USUAL_TOKENS = 512  # of an answer whose length the client leaves open
LONGEST_TOKENS = 2**16  # who asks for more keeps nobody from an engine by it
MEDIA_TOKENS = 4096  # of a prompt with images and the like, at most: their bytes say little
# Run code or read memory in the engine, or choose what the portal chooses.
FORBIDDEN = {
    "chat_template": "The chat template is the model's.",
    "prompt_embeds": "Send text or token ids instead.",
    "kv_transfer_params": "It is the operator's to set.",
    "ec_transfer_params": "It is the operator's to set.",
    "mm_processor_kwargs": "It is the operator's to set.",
    "media_io_kwargs": "It is the operator's to set.",
    "cache_salt": "The portal sets it.",
    "priority": "The portal sets it.",
    "use_beam_search": "What it costs cannot be counted.",
    "request_id": "Send it as the header x-request-id.",
}
_FORBIDDEN = frozenset(FORBIDDEN)
_FORBIDDEN_TEMPLATE_KWARGS = ("chat_template", "tokenize")


class Body:
    """A parsed request body. `fields` maps each top-level key to its raw JSON. `size`, in bytes, bounds the prompt:
    whoever makes the prompt longer than the client sent it adds to it."""

    __slots__ = (
        "_changes", "batch", "choices", "choices_per_prompt", "fields", "generates", "keep_continuous", "keep_usage",
        "known", "max_tokens", "max_tokens_field", "model", "prompts", "size", "stream", "text_only",
    )  # fmt: skip

    def __init__(self, fields: dict[str, Raw], size: int, model: str | None) -> None:
        self.fields = fields
        self.size = size
        self.model = model
        self.stream = self.keep_usage = self.keep_continuous = False
        self.max_tokens: int | None = None
        """None: the client left it to the engine, which goes on to the end of the model's context."""
        self.max_tokens_field = "max_tokens"
        self.batch = False
        """It can wait until those are served who wait in front of a screen."""
        self.choices_per_prompt = self.prompts = 1
        self.choices = 1
        """Of all prompts together."""
        self.text_only = True
        """The prompt is text in this body, so its bytes bound its tokens; images and the like are not."""
        self.generates = False
        self.known: dict[str, bytes] | None = None
        """What is known of the engine that answers; shared by all its streams."""
        self._changes: dict[str, Any] = {}

    @property
    def weight(self) -> int:
        """About how many tokens this costs an engine, 1 or more: a token is some four bytes. To compare engines by;
        what is reserved and charged is counted otherwise."""
        prompt = self.size // 4 + 1
        if not self.text_only:
            prompt = min(prompt, MEDIA_TOKENS)
        if not self.generates:
            return prompt
        answer = USUAL_TOKENS if self.max_tokens is None else min(self.max_tokens, LONGEST_TOKENS)
        return prompt + answer * self.choices

    def affinity(self, user_id: int) -> bytes:
        """As `affinity.of_prompt`; b"" for what generates nothing, and so reads each prompt once."""
        return affinity.of_prompt(user_id, self.fields) if self.generates else b""

    def set(self, key: str, value: Any) -> None:
        """The engine gets this value in place of the client's."""
        self._changes[key] = value

    def leave(self, *keys: str) -> None:
        """The engine gets the client's own values after all."""
        for key in keys:
            self._changes.pop(key, None)

    def drop(self, key: str) -> None:
        """The engine does not get this field."""
        self.fields.pop(key, None)
        self._changes.pop(key, None)

    def encode(self) -> bytes:
        """The body to send to the engine."""
        return _encode({**self.fields, **self._changes})

    def value(self, name: str, kind: type) -> Any:
        """The decoded value of a field as the client sent it; None when it is missing or null. `kind`: str, int, bool
        or dict. Raises InvalidRequest for another type."""
        raw = self.fields.get(name)
        if raw is None:
            return None
        try:
            return _DECODERS[kind](raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            names = {str: "a string", int: "an integer", bool: "true or false", dict: "an object"}
            raise InvalidRequest(f"{name} must be {names[kind]}.", param=name, code="invalid_type") from None

    def number(self, name: str, low: int, high: int) -> int | None:
        """Raises InvalidRequest for what is no integer, or one outside of the range."""
        value = self.value(name, int) if name in self.fields else None
        if value is not None and not low <= value <= high:
            raise InvalidRequest(f"{name} must be between {low} and {high}.", param=name, code="invalid_value")
        return value

    def items(self, name: str) -> list[Raw] | None:
        """The values of a field that is a list; None when it is something else."""
        raw = self.fields.get(name)
        if raw is None or not bytes(raw).startswith(b"["):
            return None
        try:
            return msgspec.json.decode(raw, type=list[Raw])
        except msgspec.DecodeError:
            return None

    def count_prompts(self, name: str) -> int:
        """How many prompts a field holds: a list of texts or of token lists is several, else it is one."""
        items = self.items(name)
        if not items or not bytes(items[0]).startswith((b'"', b"[", b"{")):
            return 1  # a text, or token ids
        return len(items)


def read(data: bytes, prompt_fields: tuple[str, ...] = ()) -> Body:
    """Raises InvalidRequest that names the field. `prompt_fields` are searched for what is not text."""
    try:
        fields = _decode_object(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not a JSON object: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None
    if not _FORBIDDEN.isdisjoint(fields):
        _refuse_forbidden(fields)
    body = Body(fields, len(data), None)
    body.model = body.value("model", str)
    if "chat_template_kwargs" in fields:
        for name in body.value("chat_template_kwargs", dict) or ():
            if name in _FORBIDDEN_TEMPLATE_KWARGS:
                raise InvalidRequest(
                    f"{name} is not allowed in chat_template_kwargs. The chat template is the model's.",
                    param="chat_template_kwargs",
                    code="unsupported_parameter",
                )
    if may_hold_media(data):
        for name in prompt_fields:
            raw = fields.get(name)
            if raw is not None and holds_media(name, bytes(raw)):
                body.text_only = False
    return body


def _refuse_forbidden(fields: dict[str, Raw]) -> None:
    for name in FORBIDDEN:
        if name in fields and bytes(fields[name]) != _NULL:
            raise InvalidRequest(f"{name} is not allowed. {FORBIDDEN[name]}", param=name, code="unsupported_parameter")
