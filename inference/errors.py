"""What a request to an engine can meet, each with OpenAI's shape.

ApiError
├── InvalidRequest       400 / 404 / 405 / 413 / 415: the caller must change the request
│   ├── WrongMethod      405
│   └── ModelNotFound    404
├── InvalidKey           401
├── LimitReached         429, insufficient_quota: the limit is used up; an admin can raise it
├── Asleep               503: the engine sleeps; whoever holds the request may wake it
├── TryLater             429, rate_limit_exceeded, or 503: the same request may work soon
└── EngineError          502 / 504: the engine broke its word
"""

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from inference.routing import Route

_encode = msgspec.json.encode


class ApiError(Exception):
    """An answer with an error. `code` is always a string."""

    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if status is not None:
            self.status = status
        if code is not None:
            self.code = code
        if type is not None:
            self.type = type

    def fields(self) -> dict[str, str | None]:
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def body(self) -> bytes:
        return _encode({"error": self.fields()})

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", b"application/json")]
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, round(self.retry_after_s))))
        return headers


class InvalidRequest(ApiError):
    status, type, code = 400, "invalid_request_error", "invalid_request"


class WrongMethod(InvalidRequest):
    status, code = 405, "method_not_allowed"

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not allowed here; use {allowed}.")
        self.allowed = allowed

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [*super().headers(), (b"allow", self.allowed.encode())]


class ModelNotFound(InvalidRequest):
    status, code = 404, "model_not_found"


class InvalidKey(ApiError):
    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class LimitReached(ApiError):
    status, type, code = 429, "insufficient_quota", "insufficient_quota"


class TryLater(ApiError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class Asleep(ApiError):
    """`route`: to whom, once it is awake."""

    status, code = 503, "engine_asleep"

    def __init__(self, route: "Route") -> None:
        super().__init__(f"The engine {route.name} is asleep.", retry_after_s=30)
        self.route = route


def restarting() -> TryLater:
    """For what the portal's stop cuts off."""
    return TryLater("The portal is restarting; send this again.", status=503, code="unavailable", retry_after_s=5)


class EngineError(ApiError):
    status, type, code = 502, "server_error", "engine_error"


class _EngineErrorBody(msgspec.Struct):
    """vLLM's `error`: an object, but for a 401, where it is a string."""

    message: str = ""
    type: str | None = None
    param: str | None = None


class _EngineAnswer(msgspec.Struct):
    error: _EngineErrorBody | str = ""
    detail: str = ""


_decode = msgspec.json.Decoder(_EngineAnswer).decode


def from_engine(status: int, body: bytes) -> ApiError:
    """vLLM's error answer as ours: its message, type and param, a string code. What betrays the inside of the
    portal (the engine refusing the portal's own key, a path it does not have) is said in the portal's words."""
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return EngineError("The engine gave an answer that is not JSON.")
    if status == 401:
        return EngineError("The engine did not accept the portal's key.")
    if not isinstance(answer.error, _EngineErrorBody):
        if status in (404, 405):
            return InvalidRequest(
                "The engine of this model does not offer this endpoint.", status=404, code="not_found"
            )
        return EngineError(answer.detail or "The engine answered with an error.")
    found = answer.error
    said = {"type": found.type, "param": found.param}
    if status >= 500:
        return EngineError(found.message or "The engine failed.", **said)
    if "maximum context length" in found.message or "max_model_len" in found.message:
        return InvalidRequest(found.message, status=status, code="context_length_exceeded", **said)
    return InvalidRequest(found.message, status=status, code="model_not_found" if status == 404 else None, **said)


def with_string_code(data: bytes) -> bytes:
    """vLLM's error object of a stream: the same with a string code. What is no such object stays."""
    try:
        answer = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data
    if not isinstance(answer.error, _EngineErrorBody):
        return data
    found = answer.error
    return EngineError(found.message or "The engine failed.", type=found.type, param=found.param).body()
