"""Streams that do not say how long they will be reserve as they go, and end where a limit ends."""

import asyncio
import json

import pytest

from accounts import keys
from accounts.models import TokenLimit
from tests.fakes.upstream import STREAM_HEAD, chunk, event, last_event, sse
from tests.inference.ledger_seen import numbers, records, reserved

SLICE = 16
DONE = b"data: [DONE]\n\n"
STREAM = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.fixture(autouse=True)
def small_slices(gateway):
    gateway.relay.slice_tokens = SLICE


def generating(tokens: int, at_once: int = 1, gate=None):
    """An engine that generates so many tokens, `at_once` in a packet; before each packet it waits at the gate."""

    async def answer(request, writer):
        writer.write(STREAM_HEAD)
        for first in range(1, tokens + 1, at_once):
            if gate:
                await gate(first)
            numbers = range(first, min(first + at_once, tokens + 1))
            writer.write(chunk(sse(*(event(f"t{number}", 7, number) for number in numbers))))
            await writer.drain()
        writer.write(chunk(sse(last_event(7, tokens)) + DONE) + b"0\r\n\r\n")

    return answer


def events(answer) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]", answer.text[-300:]
    return [json.loads(line) for line in lines[:-1]]


def words(answer) -> list[str]:
    deltas = [choice["delta"] for one in events(answer) for choice in one["choices"]]
    return [delta["content"] for delta in deltas if "content" in delta]


@pytest.mark.parametrize("at_once", [1, 5, 200])
@pytest.mark.parametrize("left", [SLICE, SLICE + 1, 50, 100])
def test_a_stream_ends_where_the_limit_ends(portal, engine, alice, raw_engine, limit, eventually, left, at_once):
    limit(alice, generated=left)
    raw_engine.answer = generating(200, at_once)
    answer = portal.chat(alice, stream=True, stream_options={"include_usage": True})
    assert words(answer) == [f"t{number}" for number in range(1, left + 1)]
    *_, last, usage = events(answer)
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["usage"] == {"prompt_tokens": 7, "completion_tokens": left, "total_tokens": 7 + left}
    eventually(lambda: len(records()) == 1 and reserved(alice) == [0, 0])
    assert numbers(alice) == (7, left)
    assert (records()[0].outcome, records()[0].exact) == ("completed", False)


def test_the_engines_own_end_just_beyond_the_limit_is_not_waited_for(portal, engine, alice, raw_engine, limit):
    """The first stream of an engine keeps such an event back until the next one comes."""

    async def answer(request, writer):
        writer.write(STREAM_HEAD)
        for number in range(1, SLICE + 1):
            writer.write(chunk(sse(event(f"t{number}", 7, number))))
        end = event("end", 7, SLICE + 1).replace(b'"finish_reason":null', b'"finish_reason":"stop"')
        writer.write(chunk(sse(end)))
        await writer.drain()
        await asyncio.sleep(60)  # the event after it need not come

    limit(alice, generated=SLICE)
    raw_engine.answer = answer
    answered = portal.chat(alice, stream=True)
    assert len(words(answered)) == SLICE
    assert events(answered)[-1]["choices"][0]["finish_reason"] == "length"
    assert numbers(alice)[1] in (0, SLICE)


def test_a_stream_that_ends_by_itself_costs_what_it_has_generated(portal, engine, alice, raw_engine, limit, eventually):
    limit(alice, generated=1000)
    raw_engine.answer = generating(70, 3)
    answer = portal.chat(alice, stream=True)
    assert len(words(answer)) == 70
    assert "length" not in answer.text
    eventually(lambda: len(records()) == 1)
    assert (numbers(alice), records()[0].exact) == ((7, 70), True)
    assert "max_tokens" not in raw_engine.received[0].json


def test_meanwhile_others_have_the_rest_of_the_limit(portal, engine, alice, raw_engine, limit, eventually):
    go_on = asyncio.Event()
    loops = []

    async def gate(number):
        if number == 3:
            loops.append(asyncio.get_running_loop())
            await go_on.wait()

    limit(alice, generated=100)
    raw_engine.answer = generating(30, gate=gate)
    with portal.post(alice, "/v1/chat/completions", STREAM, stream=True) as answer:
        eventually(lambda: bool(loops))
        assert reserved(alice)[1] == SLICE
        loops[0].call_soon_threadsafe(go_on.set)
        assert answer.content.endswith(DONE)
    eventually(lambda: numbers(alice) == (7, 30))


def test_a_limit_of_tokens_by_time_ends_a_stream_too(portal, engine, alice, raw_engine, eventually):
    TokenLimit.objects.filter(user=alice).update(tokens_per_month=500)
    raw_engine.answer = generating(900, 10)
    answer = portal.post(alice, "/v1/chat/completions", STREAM)
    assert events(answer)[-1]["choices"][0]["finish_reason"] == "length"
    eventually(lambda: len(records()) == 1 and reserved(alice) == [0, 0])
    prompt_bound = 500 - numbers(alice)[1]
    assert 7 <= prompt_bound < 500  # the prompt was reserved by its bound while the stream ran
    refused = portal.chat(alice, max_tokens=500)
    assert refused.status_code in (200, 429)
    eventually(lambda: sum(one.prompt_tokens + one.generated_tokens for one in records()) <= 500)


def test_a_keys_limit_ends_its_stream(portal, engine, alice, raw_engine, eventually):
    _, clear = keys.make(alice, {"name": "k", "gen_token_limit": 40})
    raw_engine.answer = generating(200, 4)
    answer = portal.post(alice, "/v1/chat/completions", STREAM, headers={"Authorization": f"Bearer {clear}"})
    assert len(words(answer)) == 40
    eventually(lambda: numbers(alice)[1] == 40)


def test_a_client_that_leaves_pays_for_what_was_passed_on(portal, engine, alice, raw_engine, limit, eventually):
    limit(alice, generated=100)

    async def never(number):
        if number == 30:
            await asyncio.sleep(60)

    raw_engine.answer = generating(50, gate=never)
    with portal.post(alice, "/v1/chat/completions", STREAM, stream=True) as answer:
        seen = b""
        for piece in answer.iter_content(None):
            seen += piece
            if b"t29" in seen:
                break
    eventually(lambda: len(records()) == 1 and reserved(alice) == [0, 0])
    assert (numbers(alice), records()[0].outcome) == ((7, 29), "aborted")
