"""A prompt with its history to an engine, and the answer's text back: what `/llm_request` does between its database
look-ups. The request takes the same way as everybody's: admission, relay, ledger."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from inference import affinity
from inference.call import Call
from inference.endpoints import CHAT, COMPLETIONS, Endpoint
from inference.errors import ApiError, Asleep, EngineError, InvalidRequest, ModelNotFound
from inference.gateway import Gateway
from inference.history import Turn, newest_that_fit
from inference.routing import Caller, Route
from inference.upstream import Headers
from vllm_portal.log import request_id

_ENGINE_ID = re.compile(r"/engines/([0-9a-f-]{36})(?:/|\Z)")
_THINKING = re.compile(r"\A\s*(?:<think>)?.*?</think>\s*", re.DOTALL)
OVERHEAD_TOKENS = 256  # what a chat template adds to a request, generously
TURN_TOKENS = 64  # … and to a turn


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a caller of `/llm_request` wants to know, and how."""

    text: str
    system: str
    history: list[Turn] = field(default_factory=list)
    conversation: str = ""
    """Whose turns these are; "": no conversation's."""
    model: str | None = None
    """The name that the engine is found by; None: another engine will not do."""
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 512

    @property
    def weight(self) -> int:
        """As `Body.weight`."""
        said = len(self.system) + len(self.text) + sum(len(one) + len(other) for one, other in self.history)
        return said // 4 + self.max_tokens + 1

    def affinity(self, user_id: int) -> bytes:
        return affinity.of_conversation(user_id, self.conversation) if self.conversation else b""


async def find_engine(plane: Gateway, caller: Caller, endpoint: str, model: str, prompt: Prompt) -> Route:
    """The engine that `endpoint` names, in whatever form a client kept of it: the id in it is looked up among the
    engines of the caller, and nothing of it is ever used as an address. "" : by model. Raises ApiError."""
    found = _ENGINE_ID.search(endpoint)
    if endpoint and not found:
        raise ModelNotFound("inference_endpoint names no engine; take one from /active_models/.")
    route = await _found(plane, caller, found[1] if found else None, model or None, prompt)
    if found and model and model not in route.names and model != route.model:
        raise InvalidRequest(f"The engine at inference_endpoint serves {route.title}.", param="model")
    if route.task != "generate":
        raise InvalidRequest(f"{route.title} makes embeddings and cannot chat.", param="model")
    return route


async def _found(plane: Gateway, caller: Caller, engine_id: str | None, model: str | None, prompt: Prompt) -> Route:
    """Awake: waits where it has to wake first."""
    try:
        return await plane.find(caller, engine_id, model, prompt)
    except Asleep as asleep:
        body = CHAT.parse(b'{"messages":[]}')
        await plane.wakes.hold(Call(caller, asleep.route, CHAT, body, request_id.get(), model))
        return await plane.find(caller, engine_id, model, prompt)


async def answer(plane: Gateway, caller: Caller, route: Route, prompt: Prompt) -> str:
    """The answer's text, without what a reasoning model thought on the way. Raises ApiError."""
    call = await _call(plane, caller, route, prompt, stream=False)
    collected = _Collector()
    await plane.relay.serve(call, collected)
    return visible(_text(b"".join(collected.parts), call.endpoint))


async def stream(plane: Gateway, caller: Caller, route: Route, prompt: Prompt) -> AsyncIterator[str]:
    """The answer's text in pieces. Raises ApiError, also in the middle. Closing the iterator aborts the answer."""
    call = await _call(plane, caller, route, prompt, stream=True)
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=64)
    serving = asyncio.create_task(_serve_into(plane, call, pieces))
    text, shown = "", 0
    try:
        while (piece := await pieces.get()) is not None:
            for event in piece.split(b"\n\n"):
                text += _delta(event, call.endpoint)
            seen = _visible_so_far(text)
            if len(seen) > shown:
                yield seen[shown:]
                shown = len(seen)
        await serving
    finally:
        serving.cancel()


async def _serve_into(plane: Gateway, call: Call, pieces: Any) -> None:
    try:
        await plane.relay.serve(call, _QueueClient(pieces))
    except asyncio.CancelledError:
        raise  # nobody reads any more
    except ApiError:
        await pieces.put(None)
        raise
    await pieces.put(None)


class _Collector:
    def __init__(self) -> None:
        self.parts: list[bytes] = []

    async def start(self, status: int, headers: Headers) -> None:
        return None

    async def send(self, data: bytes, *, more: bool = True) -> None:
        self.parts.append(data)


class _QueueClient:
    def __init__(self, pieces: Any) -> None:
        self._pieces = pieces

    async def start(self, status: int, headers: Headers) -> None:
        return None

    async def send(self, data: bytes, *, more: bool = True) -> None:
        if data:
            await self._pieces.put(data)


async def _call(plane: Gateway, caller: Caller, route: Route, prompt: Prompt, *, stream: bool) -> Call:
    """Raises ApiError, if the engine's tokenizer is asked and cannot say."""
    history, max_tokens = await _fitting(plane, route, prompt)
    endpoint: Endpoint = CHAT if route.has_chat_template else COMPLETIONS
    fields: dict[str, Any] = {
        "model": route.model,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "max_tokens": max_tokens,
        "stream": stream,
        **_conversation(route, prompt, history),
    }
    if endpoint is COMPLETIONS:
        fields["stop"] = ["\nUser:"]
    body = endpoint.parse(msgspec.json.encode(fields))
    return Call(caller, route, endpoint, body, request_id.get(), prompt.model)


async def _fitting(plane: Gateway, route: Route, prompt: Prompt) -> tuple[list[Turn], int]:
    """The newest turns that fit the model's context beside prompt and answer, and how long the answer may be. The
    answer keeps half of the context if it wants that much, and is cut short only for a prompt that is long by itself; a
    prompt that leaves no room at all is the engine's to refuse, in its own words."""

    counted: dict[int, int] = {}

    async def count(turns: list[Turn]) -> int:
        if len(turns) not in counted:
            request = {"model": route.model, **_conversation(route, prompt, turns)}
            counted[len(turns)] = await plane.relay.tokenize(route, request)
        return counted[len(turns)]

    context = route.max_model_len
    max_tokens = min(prompt.max_tokens, context - 1)
    base = _bytes(_conversation(route, prompt, [])) + OVERHEAD_TOKENS
    sizes = [_bytes(turn) + TURN_TOKENS for turn in prompt.history]
    turns = await newest_that_fit(prompt.history, sizes, base, context - min(max_tokens, context // 2), count)
    if base + sum(sizes[len(sizes) - len(turns) :]) + max_tokens <= context:
        return turns, max_tokens
    left = context - await count(turns)
    return turns, min(max_tokens, left) if left > 0 else max_tokens


def _bytes(value: Any) -> int:
    return len(msgspec.json.encode(value))


def _conversation(route: Route, prompt: Prompt, history: list[Turn]) -> dict[str, Any]:
    """As chat messages, or as a plain transcript for a model that has no chat template."""
    if route.has_chat_template:
        messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
        for question, reply in history:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        return {"messages": [*messages, {"role": "user", "content": prompt.text}]}
    lines = [prompt.system, ""] if prompt.system else []
    for question, reply in history:
        lines += [f"User: {question}", f"Assistant: {reply}"]
    return {"prompt": "\n".join([*lines, f"User: {prompt.text}", "Assistant:"])}


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    error: Any = None


def _text(data: bytes, endpoint: Endpoint) -> str:
    try:
        choice = msgspec.json.decode(data, type=_Answer).choices[0]
    except (msgspec.DecodeError, IndexError):
        raise EngineError("The engine's answer cannot be read.") from None
    if endpoint is CHAT:
        return (choice.message and choice.message.content) or ""
    return (choice.text or "").strip()


def _delta(event: bytes, endpoint: Endpoint) -> str:
    if not event.startswith(b"data: {"):
        return ""
    try:
        chunk = msgspec.json.decode(event[6:], type=_Answer)
    except msgspec.DecodeError:
        return ""
    if chunk.error:
        message = chunk.error.get("message", "") if isinstance(chunk.error, dict) else str(chunk.error)
        raise EngineError(message or "The engine failed.")
    if not chunk.choices:
        return ""
    choice = chunk.choices[0]
    return (choice.text if endpoint is COMPLETIONS else choice.delta and choice.delta.content) or ""


def visible(text: str) -> str:
    """The text after a model's `<think>…</think>`; "" while that is not closed."""
    if "</think>" in text:
        return _THINKING.sub("", text, count=1)
    return "" if text.lstrip().startswith("<think>") else text


def _visible_so_far(text: str) -> str:
    """Of an answer that still grows: a beginning that may become `<think>` is held back."""
    start = text.lstrip()
    return "" if "<think>".startswith(start[:7]) else visible(text)
