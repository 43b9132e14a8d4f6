"""A request's body, checked as vLLM checks it: unknown fields are ignored, "5" and 5.0 are the integer 5.

Nothing here knows HTTP or waits. Each function raises ApiError.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from engines.simulator import tokens
from engines.simulator.answers import Sampling
from engines.simulator.errors import bad_parameter, bad_value, invalid, no_chat_template, too_long
from engines.simulator.misbehaviour import Faults
from engines.simulator.options import Options

Body = Mapping[str, Any]
_MAX_N = 16384
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")
_COMPLETION_DEFAULT = 16  # of OpenAI's older interface; a chat's default is what the context leaves


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a chat or completion asks for. `said`: for each prompt the text that is answered; `counts`: its tokens."""

    said: list[str]
    counts: list[int]
    n: int
    sampling: Sampling
    stream: bool
    include_usage: bool
    continuous_usage: bool
    faults: Faults

    @property
    def prompt_tokens(self) -> int:
        return sum(self.counts)


def parse_json(raw: bytes) -> Body:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid("body.0", "json_invalid", "JSON decode error", str(error)) from None
    if not isinstance(body, dict):
        raise invalid("body", "model_attributes_type", "Input should be a valid dictionary or object", body)
    return body


def read_chat(body: Body, options: Options) -> Wanted:
    messages = chat_messages(body)
    tools = tools_text(body, options)
    if not options.chat_template:
        raise no_chat_template()
    prompt_tokens = tokens.count_prompt(messages, tools)
    asked = integer(body, "max_completion_tokens")
    if asked is None:
        asked = integer(body, "max_tokens")
    said = next((tokens.message_text(one) for one in reversed(messages) if one["role"] == "user"), "")
    return _wanted(body, options, [said], [prompt_tokens], asked)


def read_completion(body: Body, options: Options) -> Wanted:
    prompts = completion_prompts(body)
    counts = [tokens.count_prompt(prompt) for prompt in prompts]
    said = [prompt if isinstance(prompt, str) else tokens.decode(prompt) for prompt in prompts]
    asked = integer(body, "max_tokens")
    limit = options.max_model_len - max(counts)
    return _wanted(body, options, said, counts, min(_COMPLETION_DEFAULT, max(limit, 1)) if asked is None else asked)


def _wanted(body: Body, options: Options, said: list[str], counts: list[int], asked: int | None) -> Wanted:
    _check_numbers(body)
    stream = boolean(body, "stream")
    include_usage, continuous = _stream_options(body, stream)
    n = integer(body, "n")
    if n is not None and not 1 <= n <= _MAX_N:
        raise bad_parameter(f"n must be between 1 and {_MAX_N}, got {n}.", "n", n)
    return Wanted(
        said=said,
        counts=counts,
        n=n or 1,
        sampling=_sampling(body, options, max(counts), asked),
        stream=stream,
        include_usage=include_usage or options.force_include_usage,
        continuous_usage=(include_usage and continuous) or options.force_include_usage,
        faults=faults_of(body, options),
    )


def _sampling(body: Body, options: Options, longest: int, asked: int | None) -> Sampling:
    if asked is not None and asked < 1:
        raise bad_parameter(f"max_tokens must be at least 1, got {asked}.", "max_tokens", asked)
    if asked is not None and asked > options.max_model_len:
        raise bad_parameter(
            f"max_tokens={asked} cannot be greater than max_model_len={options.max_model_len}. "
            "Please request fewer output tokens.",
            "max_tokens",
            asked,
        )
    if longest + (asked or 1) > options.max_model_len:
        raise too_long(longest, asked, options.max_model_len)
    max_tokens = asked or options.max_model_len - longest
    min_tokens = integer(body, "min_tokens") or 0
    if not 0 <= min_tokens <= max_tokens:
        raise bad_parameter(
            f"min_tokens must be between 0 and max_tokens={max_tokens}, got {min_tokens}.", "min_tokens", min_tokens
        )
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=boolean(body, "ignore_eos"),
        stop=_stop_strings(body),
        include_stop=boolean(body, "include_stop_str_in_output"),
    )


def chat_messages(body: Body) -> list[Body]:
    messages = body.get("messages")
    if messages is None:
        raise invalid("body.messages", "missing", "Field required", dict(body))
    if not isinstance(messages, list):
        raise invalid("body.messages", "list_type", "Input should be a valid list", messages)
    if not messages:
        raise bad_value("messages must not be empty.", "messages")
    for place, message in enumerate(messages):
        _check_message(f"body.messages.{place}", message)
    return messages


def _check_message(location: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise invalid(location, "dict_type", "Input should be a valid dictionary", message)
    if not isinstance(message.get("role"), str):
        kind = "missing" if "role" not in message else "string_type"
        raise invalid(f"{location}.role", kind, "Field required", message)
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            continue
        if not isinstance(part, dict) or part.get("type") not in ("text", "input_text"):
            raise bad_value("This model takes text only: At most 0 image(s) may be provided in one prompt.", None)
        if not isinstance(part.get("text"), str):
            raise invalid(f"{location}.content", "string_type", "Input should be a valid string", part)
    if content is not None and not isinstance(content, str | list):
        raise invalid(f"{location}.content", "string_type", "Input should be a valid string", content)
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(
        isinstance(call, dict) and isinstance(call.get("function", {}), dict) for call in calls
    ):
        raise invalid(f"{location}.tool_calls", "list_type", "Input should be a valid list", calls)


def tools_text(body: Body, options: Options) -> str:
    """The tools as the chat template would write them, "" for none."""
    tools = body.get("tools")
    choice = body.get("tool_choice", "auto" if tools else "none")
    if not tools or choice == "none":
        return ""
    if not isinstance(tools, list):
        raise invalid("body.tools", "list_type", "Input should be a valid list", tools)
    if choice == "auto" and not options.auto_tool_choice:
        raise bad_value('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', None)
    if choice != "auto" and not options.tool_call_parser:
        name = choice.get("function", {}).get("name") if isinstance(choice, dict) else choice
        raise bad_value(f'tool_choice=function "{name}" requires --tool-call-parser to be set', None)
    return msgspec.json.encode(tools).decode()


def completion_prompts(body: Body) -> list[str] | list[list[int]]:
    """A text, texts, token ids, or lists of them; always as a list."""
    prompt = body.get("prompt")
    if prompt is None:
        raise invalid("body.prompt", "missing", "Field required", dict(body))
    return text_or_ids(prompt, "prompt")


def text_or_ids(given: Any, name: str) -> list[str] | list[list[int]]:
    many = [given] if isinstance(given, str) or (isinstance(given, list) and _all(given, int)) else given
    if not isinstance(many, list) or not (_all(many, str) or all(_all(one, int) for one in many)):
        raise invalid(f"body.{name}", "string_type", "Input should be a valid string", given)
    if not many or not all(many):
        raise bad_value(f"The decoder {name} cannot be empty", name)
    for one in many:
        for number in one if isinstance(one, list) else ():
            check_token_id(number)
    return many


def check_token_id(number: int) -> None:
    if not 0 <= number < tokens.VOCABULARY_SIZE:
        raise bad_value(f"Token id {number} is out of vocabulary", None)


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def integer(body: Body, name: str) -> int | None:
    """None where it is missing or null."""
    value = body.get(name)
    if value is None or type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, str):
        text = "Input should be a valid integer, unable to parse string as an integer"
        raise invalid(f"body.{name}", "int_parsing", text, value)
    raise invalid(f"body.{name}", "int_type", "Input should be a valid integer", value)


def number(body: Body, name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise invalid(f"body.{name}", "float_type", "Input should be a valid number", value) from None


def boolean(body: Body, name: str, default: bool = False) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise invalid(f"body.{name}", "bool_type", "Input should be a valid boolean", value)


def text(body: Body, name: str) -> str | None:
    value = body.get(name)
    if value is None or isinstance(value, str):
        return value
    raise invalid(f"body.{name}", "string_type", "Input should be a valid string", value)


def _check_numbers(body: Body) -> None:
    for name in ("seed", "top_k"):
        integer(body, name)
    for name in ("presence_penalty", "frequency_penalty", "repetition_penalty", "min_p"):
        number(body, name)
    temperature, top_p = number(body, "temperature"), number(body, "top_p")
    if temperature is not None and temperature < 0:
        raise bad_parameter(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
    if top_p is not None and not 0 < top_p <= 1:
        raise bad_parameter(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)


def _stop_strings(body: Body) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    if isinstance(stop, str):
        stop = [stop]
    if not _all(stop, str):
        raise invalid("body.stop", "string_type", "Input should be a valid string", stop)
    if not all(stop):
        raise bad_value("stop cannot contain an empty string.", "stop")
    return tuple(stop)


def _stream_options(body: Body, stream: bool) -> tuple[bool, bool]:
    given = body.get("stream_options")
    if given is None:
        return False, False
    if not isinstance(given, dict):
        raise invalid("body.stream_options", "model_attributes_type", "Input should be a valid dictionary", given)
    if not stream:
        raise bad_value("Stream options can only be defined when `stream=True`.", "stream_options")
    return boolean(given, "include_usage"), boolean(given, "continuous_usage_stats")


def faults_of(body: Body, options: Options) -> Faults:
    extra = body.get("vllm_xargs")
    words = extra.get("simulate") if isinstance(extra, dict) else None
    if words is None:
        return options.faults
    try:
        return options.faults.changed_by(str(words))
    except ValueError as error:
        raise bad_value(str(error), "vllm_xargs") from None
