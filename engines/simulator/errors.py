"""Refusals in vLLM's shapes.

Exception
├── ApiError        an answer that is not the one asked for, with status and body
├── EngineFailure   the engine died, or is made to look so: a 500, or an event in mid-stream
└── ClientLeft      nobody is there to answer
"""

from typing import Any


class ApiError(Exception):
    def __init__(self, status: int, body: dict[str, Any], headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = headers


class EngineFailure(Exception):
    pass


class ClientLeft(Exception):
    pass


def error_body(message: str, kind: str, param: str | None, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


ENGINE_DEAD = error_body(
    "EngineCore encountered an issue. See stack trace (above) for the root cause.", "InternalServerError", None, 500
)


def bad_value(message: str, param: str | None) -> ApiError:
    """The value has the right type, and the engine refuses it."""
    return ApiError(400, error_body(message, "BadRequestError", param, 400))


def bad_parameter(message: str, param: str, value: Any) -> ApiError:
    return bad_value(f"{message} (parameter={param}, value={value})", param)


def invalid(location: str, kind: str, message: str, given: Any = None) -> ApiError:
    """The body has the wrong form. `location` is like "body.max_tokens". vLLM answers 400 and never 422."""
    shown = f"<dict of {len(given)} items>" if isinstance(given, dict) else given
    detail = {"type": kind, "loc": location, "msg": message, "input": shown}
    return ApiError(400, error_body(f"1 validation error:\n  {detail}", "Bad Request", location, 400))


def wrong_media_type() -> ApiError:
    text = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
    return ApiError(400, error_body(text, "Bad Request", None, 400))


def unknown_model(name: str, aliases: list[str]) -> ApiError:
    text = f"The model `{name}` does not exist. Valid aliases: {', '.join(aliases)}."
    return ApiError(404, error_body(text, "NotFoundError", "model", 404))


def too_long(prompt_tokens: int, max_tokens: int | None, max_model_len: int) -> ApiError:
    """vLLM stops counting when it knows enough, hence its "at least"."""
    at_least = min(prompt_tokens, max_model_len - (max_tokens or 0) + 1)
    text = f"This model's maximum context length is {max_model_len} tokens. However, "
    if max_tokens is None:
        text += f"your prompt contains at least {at_least} input tokens. Please reduce the length of the input prompt."
    else:
        text += (
            f"you requested {max_tokens} output tokens and your prompt contains at least {at_least} input tokens, "
            f"for a total of at least {at_least + max_tokens} tokens. Please reduce the length of the input prompt "
            "or the number of requested output tokens."
        )
    return bad_parameter(text, "input_tokens", at_least)


def no_chat_template() -> ApiError:
    return bad_value(
        "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template "
        "if the tokenizer does not define one.",
        None,
    )


def not_found() -> ApiError:
    return ApiError(404, {"detail": "Not Found"})


def unauthorized() -> ApiError:
    """The one body whose "error" is a text."""
    return ApiError(401, {"error": "Unauthorized"})


def wrong_method(allowed: list[str]) -> ApiError:
    return ApiError(405, {"detail": "Method Not Allowed"}, ((b"allow", ", ".join(allowed).encode()),))
