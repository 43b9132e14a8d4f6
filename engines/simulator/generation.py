"""Sends the answer of a chat or a completion, in one piece or as events, well or badly."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from engines.simulator import wire
from engines.simulator.answers import Answer, make_answer, nonsense
from engines.simulator.engine import AnswerCut, Engine, Generation
from engines.simulator.errors import error_body
from engines.simulator.exchange import EVENTS, JSON, Exchange
from engines.simulator.misbehaviour import MULTIBYTE, Faults
from engines.simulator.options import Options
from engines.simulator.requests import Wanted


class Format(Protocol):
    """How an answer is written."""

    def opening(self) -> bytes: ...
    def events(self, first: int, last: int) -> tuple[bytes, int]: ...
    def closing(self, include_usage: bool) -> bytes: ...
    def failure(self) -> bytes: ...
    def body(self) -> dict[str, Any]: ...
    def broken_event(self) -> bytes: ...
    def long_event(self, size: int) -> bytes: ...


async def generate(
    options: Options, engine: Engine, exchange: Exchange, wanted: Wanted, formatted: Callable[[list[Answer]], Format]
) -> None:
    faults = wanted.faults
    exchange.split_characters = "split-utf8" in faults
    preface = MULTIBYTE if exchange.split_characters else ""
    answers = []
    for said in wanted.said:
        answer = make_answer(said, wanted.sampling, options.thinks, preface)
        answers += [nonsense(answer) if engine.weights_lost else answer] * wanted.n
    generation = Generation(
        wanted.prompt_tokens,
        answers,
        faults,
        token_seconds=_seconds(faults, "slow", options.token_seconds),
        first_token_seconds=_seconds(faults, "late", options.first_token_seconds),
    )
    form = formatted(answers)
    exchange.failure = form.failure()
    async with engine.present(generation, exchange.receive):
        if await answer_instead(exchange, generation):
            return
        async with engine.slot(generation):
            if wanted.stream:
                await _stream(engine, exchange, generation, form, wanted)
            else:
                await _answer_whole(engine, exchange, generation, form, wanted)


async def _stream(engine: Engine, exchange: Exchange, generation: Generation, form: Format, wanted: Wanted) -> None:
    await exchange.start(200, EVENTS)
    try:
        async for first, last in engine.pace(generation):
            opening = form.opening() if first == 0 else b""
            data, many = form.events(first, last)
            if first == 0:
                data = opening + data + _extra_events(form, wanted)
            await exchange.write(data)
            engine.count(generation, first, last, many)
    except AnswerCut as cut:
        if cut.politely:
            await exchange.write(b"", more=False)
        return  # else: ending without an end makes the server close the connection
    closing = form.closing(wanted.include_usage)
    engine.finished(generation, wanted.sampling.max_tokens)
    await exchange.write(closing, more=False)


async def _answer_whole(
    engine: Engine, exchange: Exchange, generation: Generation, form: Format, wanted: Wanted
) -> None:
    body = form.body()
    if "long-line" in wanted.faults:
        body["padding"] = "x" * int(wanted.faults["long-line"] or 0)
    data = wire.to_json(body)
    if "invalid-json" in wanted.faults:
        data = data[: len(data) // 2]
    try:
        async for first, last in engine.pace(generation):
            many = sum(min(last, len(one.pieces)) - min(first, len(one.pieces)) for one in generation.answers)
            engine.count(generation, first, last, many)
    except AnswerCut:
        await exchange.start(200, JSON, (b"content-length", b"%d" % len(data)))
        await exchange.write(data[: len(data) // 2])
        return
    engine.finished(generation, wanted.sampling.max_tokens)
    await exchange.answer(200, data)


async def answer_instead(exchange: Exchange, generation: Generation) -> bool:
    """Whether something else than the answer was sent."""
    faults = generation.faults
    kind = faults.instead_of_answer()
    if kind == "hangs":
        await asyncio.get_running_loop().create_future()
    if kind == "status":
        status = int(faults["status"] or 500)
        text = wire.to_json(error_body("A simulated error.", "SimulatedError", None, status))
        await exchange.answer(status, text)
    if kind == "redirect":
        await exchange.answer(302, b"", "", ((b"location", str(faults["redirect"]).encode("latin-1")),))
    if kind == "wrong-content-type":
        await exchange.answer(200, b"<html><body>A simulated page.</body></html>", "text/html")
    return kind is not None


def _extra_events(form: Format, wanted: Wanted) -> bytes:
    extra = b""
    if "invalid-json" in wanted.faults:
        extra += form.broken_event()
    if "long-line" in wanted.faults:
        extra += form.long_event(int(wanted.faults["long-line"] or 0))
    return extra


def _seconds(faults: Faults, kind: str, default: float) -> float:
    return float(faults[kind]) if kind in faults else default
