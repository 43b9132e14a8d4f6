"""Anthropic's messages, and their count of tokens."""

from typing import Any

import msgspec

from inference.body import Body
from inference.endpoints.named import NamedAnswer, NamedEvents, NamedGeneration, decoded
from inference.endpoints.tokens import Free
from inference.errors import ApiError, EngineError
from inference.routing import Route
from vllm_portal.log import request_id

_encode = msgspec.json.encode
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# What a prompt is made of, for a count of it.
_RENDERED = ("messages", "system", "tools", "tool_choice", "thinking", "output_config", "chat_template_kwargs")


class _Start(msgspec.Struct):
    message: NamedAnswer


class _Text(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Delta(msgspec.Struct):
    delta: _Text


class _Said(msgspec.Struct):
    message: str = ""


class _Error(msgspec.Struct):
    error: _Said


_START = msgspec.json.Decoder(_Start)
_DELTA = msgspec.json.Decoder(_Delta)
_ENDED = msgspec.json.Decoder(NamedAnswer)
_ERROR = msgspec.json.Decoder(_Error)


class MessageEvents(NamedEvents):
    def _named(self, name: bytes, data: bytes, event: bytes) -> bytes:
        if name == b"content_block_delta":
            delta = decoded(_DELTA, data).delta
            self._saw(delta.text or delta.thinking or delta.partial_json)
        elif name == b"message_start":
            usage = decoded(_START, data).message.usage
            if usage is not None:
                self._prompt_tokens = usage.plain().prompt_tokens
        elif name == b"message_delta":
            self._last_word(decoded(_ENDED, data).usage)
        elif name == b"message_stop":
            self.done = True
        elif name == b"error":
            self.done = self.failed = True
            return _event(EngineError(decoded(_ERROR, data).error.message or "The engine failed."))
        return event


class _Anthropic:
    """Errors in Anthropic's shape, and the request's id where its clients look for it."""

    identity_headers = (b"x-request-id", b"request-id")

    def error(self, error: ApiError) -> bytes:
        return _error(error)

    def error_event(self, error: ApiError) -> bytes:
        return _event(error)


class Messages(_Anthropic, NamedGeneration):
    path = "/v1/messages"
    prompt_fields = ("messages", "system")
    count_path = "/v1/messages/count_tokens"
    count_field = "input_tokens"

    def stream(self, body: Body) -> MessageEvents:
        return MessageEvents()

    def token_counts(self, body: Body, route: Route) -> list[dict[str, Any] | int]:
        fields = body.fields
        return [{"model": route.model, **{name: fields[name] for name in _RENDERED if name in fields}}]


class CountTokens(_Anthropic, Free):
    path = "/v1/messages/count_tokens"
    prompt_fields = ("messages", "system")


MESSAGES = Messages()


def _error(error: ApiError) -> bytes:
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    said = {"type": kind, "message": error.message}
    return _encode({"type": "error", "error": said, "request_id": request_id.get()})


def _event(error: ApiError) -> bytes:
    return b"event: error\ndata: %b\n\n" % _error(error)
