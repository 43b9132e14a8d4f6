"""OpenAI's responses, as far as one request goes: what came before is put into `input` by whoever remembers it."""

from typing import Any

import msgspec

from inference.body import Body
from inference.endpoints.named import NamedAnswer, NamedEvents, NamedGeneration, decoded
from inference.errors import ApiError, InvalidRequest
from inference.routing import Route

_encode = msgspec.json.encode


class _Ended(msgspec.Struct):
    response: NamedAnswer


class _Delta(msgspec.Struct):
    delta: str | None = None


_ENDED = msgspec.json.Decoder(_Ended)
_DELTA = msgspec.json.Decoder(_Delta)


class ResponseEvents(NamedEvents):
    def _named(self, name: bytes, data: bytes, event: bytes) -> bytes:
        if name.endswith(b".delta"):
            self._saw(decoded(_DELTA, data).delta)
        elif name in (b"response.completed", b"response.incomplete", b"response.failed"):
            self._last_word(decoded(_ENDED, data).response.usage)
            self.done, self.failed = True, name == b"response.failed"
        elif name == b"error":
            self.done = self.failed = True
        return event


class Responses(NamedGeneration):
    path = "/v1/responses"
    limit_fields = ("max_output_tokens",)
    prompt_fields = ("input", "instructions", "previous_input_messages")

    def examine(self, body: Body) -> None:
        super().examine(body)
        if body.value("background", bool):
            raise InvalidRequest(
                "background is not supported: an answer that nobody waits for cannot be charged. Use stream.",
                param="background",
                code="unsupported_parameter",
            )

    def stream(self, body: Body) -> ResponseEvents:
        return ResponseEvents()

    def token_counts(self, body: Body, route: Route) -> list[dict[str, Any] | int] | None:
        """Only of plain messages: the engine alone knows how it writes tools and their calls into the prompt."""
        tools = body.items("tools")
        messages = None if tools or not body.text_only else _messages(body)
        if messages is None:
            return None
        request: dict[str, Any] = {"model": route.model, "messages": messages}
        if "chat_template_kwargs" in body.fields:
            request["chat_template_kwargs"] = body.fields["chat_template_kwargs"]
        return [request]

    def error_event(self, error: ApiError) -> bytes:
        """As OpenAI's `error` event, and with the `error` that its client package looks for."""
        event = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
        whole = {**event, "sequence_number": 0, "error": error.fields()}
        return b"event: error\ndata: %b\n\n" % _encode(whole)


def _messages(body: Body) -> list[Any] | None:
    messages: list[Any] = []
    if "instructions" in body.fields:
        messages.append({"role": "system", "content": body.fields["instructions"]})
    items = body.items("input")
    if items is None:
        return [*messages, {"role": "user", "content": body.fields.get("input", "")}]
    for raw in items:
        item = msgspec.json.decode(raw)
        if not isinstance(item, dict) or item.get("type", "message") != "message":
            return None
        content = item.get("content")
        if isinstance(content, list):
            content = [{**part, "type": "text"} if isinstance(part, dict) else part for part in content]
        messages.append({"role": item.get("role"), "content": content})
    return messages


RESPONSES = Responses()
