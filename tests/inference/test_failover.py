"""Two engines of one name: who is asked, and what happens when one of them goes."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from accounts.models import TokenLimit
from engines import lifecycle
from engines.models import Engine
from engines.states import State
from inference.models import ModelAlias
from inference.upstream import Timeouts
from tests.fakes.upstream import (
    STREAM_HEAD,
    RawEngine,
    chunk,
    completion,
    event,
    last_event,
    sse,
    streamed,
    whole,
)
from tests.inference.conftest import NOW, ready_engine
from tests.inference.ledger_seen import numbers, records, reserved
from vllm_portal.changes import announce

STREAM = [event("hel", 7, 1), event("lo", 7, 2), last_event(7, 2), b"[DONE]"]


async def hangs_up(request, writer) -> None:
    writer.close()


@contextlib.contextmanager
def clients(number: int, end: Event) -> Iterator[ThreadPoolExecutor]:
    """Threads that ask at once. `end` ends the answers that they wait for, also where the test fails."""
    with ThreadPoolExecutor(number) as pool:
        try:
            yield pool
        finally:
            end.set()


@pytest.fixture
def other(request):
    """The engine beside `raw_engine`, which answers `other`."""
    engine = RawEngine(whole(completion("other"))).start()
    yield engine
    with contextlib.suppress(RuntimeError):
        engine.stop()


@pytest.fixture
def ready(gateway, eventually):
    """ready(owner, port, …): an engine that the web process knows of."""

    def make(owner, port: int, **columns) -> Engine:
        engine = ready_engine(owner, port, **columns)
        eventually(lambda: port in by_engine(gateway))
        return engine

    return make


@pytest.fixture
def pair(ready, alice, raw_engine, other) -> dict[int, Engine]:
    """Both as engines of alice and of one model, by port."""
    return {engine.port: ready(alice, engine.port) for engine in (raw_engine, other)}


def said(answer) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def asked(engine: RawEngine) -> list[dict]:
    """The bodies of the requests that it got, but for what was to be counted."""
    return [one.json for one in engine.received if one.path != "/tokenize"]


def by_engine(gateway) -> dict[int, object]:
    return {route.address[1]: route for route in gateway.routes._by_id.values()}


def test_a_request_whose_engine_cannot_be_reached_is_answered_by_the_other(
    portal, gateway, pair, alice, raw_engine, other, eventually
):
    raw_engine.stop()
    assert [said(portal.chat(alice, max_tokens=5)) for _ in range(8)] == ["other"] * 8
    eventually(lambda: len(records()) == 8)
    assert {(r.outcome, r.engine_id, r.generated_tokens) for r in records()} == {("completed", pair[other.port].pk, 3)}
    assert numbers(alice) == (56, 24)
    assert reserved(alice) == [0, 0]
    assert all(route.line.outstanding == route.line.length == 0 for route in by_engine(gateway).values())


def test_one_that_hangs_up_before_its_first_byte_is_given_up_for_the_other_once(
    portal, pair, alice, raw_engine, other, eventually
):
    raw_engine.answer = hangs_up
    answers = [said(portal.chat(alice, max_tokens=5, prompt_cache_key=str(n))) for n in range(4)]
    assert answers == ["other"] * 4
    other.answer = hangs_up
    before = len(asked(raw_engine)) + len(asked(other))
    answer = portal.chat(alice, max_tokens=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_error")
    assert len(asked(raw_engine)) + len(asked(other)) == before + 2
    eventually(lambda: [r.outcome for r in records()] == ["completed"] * 4 + ["failed"])
    assert reserved(alice) == [0, 0]


def test_a_request_that_moves_counts_once_a_minute(portal, ready, alice, bob, raw_engine, other):
    """alice's own engine is asked first; what was counted for it is given back."""
    TokenLimit.objects.filter(user=alice).update(requests_per_minute=1)
    ready(alice, raw_engine.port)
    ready(bob, other.port, shared=True)
    raw_engine.stop()
    answer = portal.chat(alice, max_tokens=5)
    assert said(answer) == "other"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"


def test_after_the_first_byte_nothing_is_sent_again(portal, pair, alice, raw_engine, other, eventually):
    for engine in (raw_engine, other):
        engine.answer = streamed(sse(STREAM[0]), end=False)
    answer = portal.chat(alice, stream=True, max_tokens=5)
    *_, last = answer.content.strip().split(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_error"
    assert len(asked(raw_engine)) + len(asked(other)) == 1
    eventually(lambda: [r.outcome for r in records()] == ["failed"])


def test_one_that_is_slow_keeps_its_request(portal, gateway, pair, alice, raw_engine, other):
    """It may work on it still: two would do the same, and a third and a fourth where clients ask again."""

    async def sleeps(request, writer) -> None:
        await asyncio.sleep(30)

    gateway.relay._timeouts = Timeouts(5, 0.1, 60, 60)
    raw_engine.answer = other.answer = sleeps
    assert portal.chat(alice, max_tokens=5).status_code == 504
    assert len(asked(raw_engine)) + len(asked(other)) == 1


def test_a_refusal_of_the_engine_is_an_answer(portal, pair, alice, raw_engine, other):
    for engine in (raw_engine, other):
        engine.answer = whole(b'{"error":{"message":"boom"}}', status=500)
    assert portal.chat(alice, max_tokens=5).status_code == 502
    assert len(asked(raw_engine)) + len(asked(other)) == 1


def test_who_names_an_engine_gets_no_other(portal, pair, alice, raw_engine, other):
    raw_engine.stop()
    engine = pair[raw_engine.port]
    body = {"model": "tiny", "messages": [], "max_tokens": 5}
    for answer in (
        portal.post(alice, f"/engines/{engine.pk}/v1/chat/completions", body),
        portal.chat(alice, model=engine.name, max_tokens=5),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert asked(other) == []


@pytest.mark.parametrize("stream", [True, False])
def test_what_llm_request_asks_is_answered_by_the_other_too(portal, pair, alice, raw_engine, other, stream):
    raw_engine.stop()
    if stream:
        other.answer = streamed(sse(*STREAM))
    body = {"model": "tiny", "prompt": "hi", "stream": stream, "memory": False}
    for _ in range(2):
        answer = portal.post(alice, "/llm_request", body)
        assert answer.status_code == 200
        assert ("hel" if stream else "other") in answer.text


def test_an_engine_that_dies_under_load_costs_its_streams_and_no_later_request(
    portal, limit, pair, alice, raw_engine, other, eventually
):
    """Streams that go on for as long as the test likes; then one of the two is killed."""
    end = Event()
    limit(alice, prompt=10**6)

    async def endless(request, writer) -> None:
        writer.write(STREAM_HEAD + chunk(sse(event("a", 7, 1))))
        while not end.is_set():
            await asyncio.sleep(0.01)
            writer.write(chunk(sse(event("", 7, 1))))
            await writer.drain()
        writer.write(chunk(sse(last_event(7, 1), b"[DONE]")) + b"0\r\n\r\n")

    raw_engine.answer = other.answer = endless

    def ask(number: int) -> tuple[int, bytes]:
        answer = portal.chat(alice, stream=True, max_tokens=5, prompt_cache_key=str(number))
        return answer.status_code, answer.content

    with clients(24, end) as pool:
        before = [pool.submit(ask, number) for number in range(12)]
        eventually(lambda: len(asked(raw_engine)) + len(asked(other)) == 12)
        lost = len(asked(raw_engine))
        assert 3 <= lost <= 9  # of twelve alike, within the bound
        raw_engine.stop()
        eventually(lambda: sum(one.done() for one in before) == lost)  # at once, not when the others end
        after = [pool.submit(ask, number) for number in range(12)]
        eventually(lambda: len(asked(other)) == 24 - lost)
        end.set()
        ended = [one.result(20) for one in before]
        went_on = [one.result(20) for one in after]
    broken = [content for status, content in ended if b"[DONE]" not in content]
    assert len(broken) == lost
    assert {status for status, _ in ended} == {200}
    assert all(json.loads(one.strip().rpartition(b"data: ")[2])["error"]["code"] == "engine_error" for one in broken)
    assert all(status == 200 and content.endswith(b"data: [DONE]\n\n") for status, content in went_on)
    eventually(lambda: len(records()) == 24)
    assert sorted(r.outcome for r in records()) == ["completed"] * (24 - lost) + ["failed"] * lost
    assert reserved(alice) == [0, 0]


def test_an_engine_that_stops_gets_nothing_new_and_ends_what_it_has(
    portal, gateway, pair, alice, raw_engine, other, eventually
):
    go_on = Event()

    async def slow(request, writer) -> None:
        writer.write(STREAM_HEAD + chunk(sse(STREAM[0])))
        await asyncio.to_thread(go_on.wait, 20)
        writer.write(chunk(sse(*STREAM[1:])) + b"0\r\n\r\n")

    raw_engine.answer = slow
    with clients(1, go_on) as pool:
        name = pair[raw_engine.port].name
        under_way = pool.submit(portal.chat, alice, model=name, stream=True, max_tokens=5)
        eventually(lambda: asked(raw_engine))
        assert lifecycle.request_terminate(pair[raw_engine.port], NOW, "alice")
        eventually(lambda: len(gateway.routes._by_id) == 1)
        assert [said(portal.chat(alice, max_tokens=5, prompt_cache_key=str(n))) for n in range(6)] == ["other"] * 6
        go_on.set()
        assert under_way.result(20).content.endswith(b"data: [DONE]\n\n")
    assert len(asked(raw_engine)) == 1


def test_who_waits_for_an_engine_that_goes_is_sent_to_the_other(
    portal, gateway, pair, alice, raw_engine, other, eventually
):
    go_on = Event()

    async def slow(request, writer) -> None:
        await asyncio.to_thread(go_on.wait, 20)
        await whole(completion())(request, writer)

    raw_engine.answer = slow
    portal.chat(alice, model=pair[other.port].name, max_tokens=5)  # the portal knows alice and both engines
    first = by_engine(gateway)[raw_engine.port]
    gateway._at_once = 1
    gateway.loop.call_soon_threadsafe(first.line.set_most, 1)
    gateway.loop.call_soon_threadsafe(setattr, by_engine(gateway)[other.port].line, "outstanding", 10**9)
    with clients(2, go_on) as pool:
        going = pool.submit(portal.chat, alice, max_tokens=5)
        eventually(lambda: len(asked(raw_engine)) == 1)
        waiting = pool.submit(portal.chat, alice, max_tokens=5)
        eventually(lambda: first.line.waiting == 1)
        assert lifecycle.request_terminate(pair[raw_engine.port], NOW, "alice")
        eventually(lambda: first.gone)
        go_on.set()
        assert said(going.result(20)) == "hello"
        assert said(waiting.result(20)) == "other"


def test_a_conversation_stays_with_the_engine_that_knows_it(portal, pair, alice, raw_engine, other):
    def turns(number: int) -> int:
        """How many of its three turns each engine got."""
        before = len(asked(raw_engine))
        messages: list = []
        for turn in range(3):
            messages.append({"role": "user", "content": f"conversation {number}, turn {turn}"})
            messages.append({"role": "assistant", "content": said(portal.chat(alice, messages=messages, max_tokens=5))})
        return len(asked(raw_engine)) - before

    seen = [turns(number) for number in range(20)]
    assert set(seen) == {0, 3}


def test_llm_requests_conversation_stays_with_its_engine(portal, pair, alice, raw_engine, other):
    portal.post(alice, "/llm_request", {"model": "tiny", "prompt": "hi", "memory": True})
    before = len(asked(raw_engine))
    for _ in range(4):
        assert portal.post(alice, "/llm_request", {"model": "tiny", "prompt": "hi", "memory": True}).status_code == 200
    assert len(asked(raw_engine)) - before in (0, 4)


def test_an_alias_of_two_models_is_answered_by_either_in_its_own_name(portal, ready, alice, bob, raw_engine, other):
    """The first is alice's own, and so comes first; the other belongs to bob, and keeps its users apart."""
    ready(alice, raw_engine.port, model="acme/one")
    ready(bob, other.port, model="acme/two", shared=True)
    ModelAlias.objects.create(name="default", targets=["acme/one", "acme/two"])
    announce("engines")
    assert said(portal.chat(alice, model="default", max_tokens=5)) == "hello"
    raw_engine.stop()
    answer = portal.chat(alice, model="default", max_tokens=5)
    assert said(answer) == "other"
    assert answer.content == completion("other")  # as the engine wrote it
    (first,), (second,) = asked(raw_engine), asked(other)
    assert (first["model"], "cache_salt" in first) == ("acme/one", False)
    assert (second["model"], "cache_salt" in second, second["max_tokens"]) == ("acme/two", True, 5)


def test_states_that_do_not_serve_are_out(portal, pair, alice, raw_engine, other):
    assert lifecycle.move(pair[raw_engine.port], State.READY, State.UNHEALTHY, NOW)
    portal.get(alice, "/v1/models/nothing")
    assert said(portal.chat(alice, max_tokens=5)) == "other"
