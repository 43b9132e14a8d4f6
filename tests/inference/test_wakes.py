"""Requests for an engine that sleeps: it is woken once, they wait, and are answered; or are told why not."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import requests
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey, TokenLimit
from engines import ending, hints, lifecycle, terms
from engines.models import Engine
from engines.states import State
from tests.fakes.upstream import event, last_event, sse, streamed, whole
from tests.inference.conftest import NOW, ready_engine
from tests.inference.ledger_seen import records, reserved
from vllm_portal.config import get_config

STREAM = sse(event("hel", 7, 1), event("lo", 7, 2), last_event(7, 2), b"[DONE]")


@pytest.fixture
def asleep(gateway, alice, raw_engine, eventually, monkeypatch):
    """alice's engine, that sleeps. Nobody launches it but `rises`."""
    monkeypatch.setattr(hints, "send", lambda *_: None)
    engine = ready_engine(alice, raw_engine.port)
    fall_asleep(engine)
    eventually(lambda: knows_of_its_sleep(gateway, engine))
    return engine


def fall_asleep(engine: Engine) -> None:
    assert terms.rest(engine, NOW, terms.IDLE, "It had no request.", "")
    assert lifecycle.asleep(engine, NOW)


def knows_of_its_sleep(gateway, engine: Engine) -> bool:
    """The web process. Until then it takes the engine for ready, which the engine's last seconds are for."""
    return str(engine.pk) in gateway.asleep._by_id


def rises(engine: Engine, port: int) -> None:
    """What the worker does with an engine that was woken."""
    engine = Engine.objects.get(pk=engine.pk)
    assert lifecycle.place(engine, [], NOW)
    for old, new in ((State.PLACED, State.STARTING), (State.STARTING, State.LOADING)):
        assert lifecycle.move(engine, old, new, NOW)
    assert lifecycle.move(
        engine, State.LOADING, State.READY, NOW, host="127.0.0.1", port=port, ready_at=NOW, served_max_model_len=1024
    )


def woken(engine: Engine) -> bool:
    engine.refresh_from_db()
    return engine.state == State.QUEUED


@pytest.fixture
def pool():
    with ThreadPoolExecutor(32) as pool:
        yield pool


def setting(monkeypatch, gateway, **values):
    for name, value in values.items():
        monkeypatch.setattr(gateway.wakes, name, value)


@pytest.mark.parametrize("way", ["/v1/chat/completions", "engine", "/llm_request", "/v1/embeddings"])
def test_a_request_wakes_its_engine_and_is_answered(portal, alice, asleep, raw_engine, pool, eventually, way):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    path = way
    if way == "engine":
        path = f"/engines/{asleep.pk}/v1/chat/completions"
    elif way == "/llm_request":
        body = {"model": "tiny", "prompt": "hi", "memory": False}
    elif way == "/v1/embeddings":
        usage = {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0}
        raw_engine.answer = whole(json.dumps({"object": "list", "data": [], "usage": usage}).encode())
        body = {"model": "tiny", "input": "hi"}
    asked = pool.submit(portal.post, alice, path, body)
    eventually(lambda: woken(asleep))
    assert (asleep.generation, asleep.cause_code, asleep.cause, asleep.ready_at) == (2, "", "", None)
    assert reserved(alice) == [0, 0]
    assert not asked.done()
    rises(asleep, raw_engine.port)
    answer = asked.result(20)
    assert answer.status_code == 200, answer.text
    eventually(lambda: len(records()) == 1)
    assert records()[0].engine_id == asleep.pk
    assert [str(one) for one in asleep.events.all()].count("ASLEEP -> QUEUED") == 1


def test_who_waits_for_a_stream_is_told_how_far_it_is(portal, alice, asleep, raw_engine, eventually):
    raw_engine.answer = streamed(STREAM)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True}
    answer = portal.post(alice, "/v1/chat/completions", body, stream=True)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    lines = answer.iter_lines()
    assert next(lines) == b": waking"
    eventually(lambda: woken(asleep))
    engine = Engine.objects.get(pk=asleep.pk)
    assert lifecycle.place(engine, [], NOW)
    assert lifecycle.move(engine, State.PLACED, State.STARTING, NOW)
    assert lifecycle.move(engine, State.STARTING, State.LOADING, NOW)
    lifecycle.progress(engine, NOW, "loading weights 43%")
    told = next(line for line in lines if b"43%" in line)
    assert told == b": loading loading weights 43%"
    assert lifecycle.move(
        engine, State.LOADING, State.READY, NOW, host="127.0.0.1", port=raw_engine.port, served_max_model_len=1024
    )
    rest = b"\n".join(line for line in lines if not line.startswith(b":")).strip()
    assert rest.startswith(b'data: {"id"')
    assert rest.endswith(b"data: [DONE]")
    eventually(lambda: [r.outcome for r in records()] == ["completed"])


def test_many_at_once_wake_it_once(portal, alice, asleep, raw_engine, pool, eventually):
    TokenLimit.objects.filter(user=alice).update(prompt_token_limit=10**6, gen_token_limit=10**6)
    asked = [pool.submit(portal.chat, alice, max_tokens=5) for _ in range(32)]
    eventually(lambda: woken(asleep))
    rises(asleep, raw_engine.port)
    assert {one.result(20).status_code for one in asked} == {200}
    asleep.refresh_from_db()
    assert asleep.generation == 2
    assert [str(one) for one in asleep.events.all()].count("ASLEEP -> QUEUED") == 1
    eventually(lambda: len(records()) == 32)
    assert reserved(alice) == [0, 0]


def test_one_that_falls_asleep_is_woken_when_it_sleeps(
    portal, gateway, alice, raw_engine, pool, eventually, monkeypatch
):
    """It is out of the routes and still ends: nothing can be started over it."""
    monkeypatch.setattr(hints, "send", lambda *_: None)
    engine = ready_engine(alice, raw_engine.port)
    assert terms.rest(engine, NOW, terms.IDLE, "It had no request.", "")
    eventually(lambda: knows_of_its_sleep(gateway, engine))
    asked = pool.submit(portal.chat, alice, max_tokens=5)
    eventually(lambda: _held(gateway) == 1)
    assert lifecycle.asleep(engine, NOW)
    eventually(lambda: woken(engine))
    rises(engine, raw_engine.port)
    assert asked.result(20).status_code == 200


def _held(gateway) -> int:
    return sum(waking.held for waking in list(gateway.wakes._waking.values()))


def test_one_that_cannot_come_up_says_why(portal, gateway, alice, asleep, pool, eventually):
    asked = [pool.submit(portal.chat, alice, max_tokens=5, stream=stream) for stream in (False, True)]
    eventually(lambda: woken(asleep) and _held(gateway) == 2)
    engine = Engine.objects.get(pk=asleep.pk)
    assert lifecycle.failed(engine, NOW, "kv_cache_too_small", "There is no room for the KV cache.")
    whole_one, stream = (one.result(20) for one in asked)
    assert (whole_one.status_code, whole_one.json()["error"]["code"]) == (503, "engine_unavailable")
    assert "There is no room for the KV cache." in whole_one.json()["error"]["message"]
    *_, last = stream.content.strip().split(b"\n\n")
    assert "no room" in json.loads(last.removeprefix(b"data: "))["error"]["message"]
    assert reserved(alice) == [0, 0]
    assert records() == []


def test_who_waits_for_too_long_is_told_to_come_again(portal, gateway, alice, asleep, eventually, monkeypatch):
    setting(monkeypatch, gateway, _timeout_s=0.3)
    answer = portal.chat(alice, max_tokens=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_waking")
    assert int(answer.headers["retry-after"]) > 0
    eventually(lambda: woken(asleep))  # and it goes on coming up
    assert _held(gateway) == 0


def test_where_nobody_may_wait_it_is_woken_all_the_same(portal, gateway, alice, asleep, eventually, monkeypatch):
    setting(monkeypatch, gateway, _most=0)
    assert portal.chat(alice, max_tokens=5).status_code == 503
    eventually(lambda: woken(asleep))
    eventually(lambda: not gateway.wakes._waking)


def test_a_fault_of_the_portals_own_leaves_nobody_waiting(portal, gateway, alice, asleep, monkeypatch, eventually):
    async def broken(*_):
        raise RuntimeError("a bug")

    setting(monkeypatch, gateway, _see=broken)
    answer = portal.chat(alice, max_tokens=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    eventually(lambda: not gateway.wakes._waking)


def test_only_so_many_wait(portal, gateway, alice, asleep, raw_engine, pool, eventually, monkeypatch):
    setting(monkeypatch, gateway, _most=2)
    asked = [pool.submit(portal.chat, alice, max_tokens=5) for _ in range(2)]
    eventually(lambda: woken(asleep) and _held(gateway) == 2)
    answer = portal.chat(alice, max_tokens=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_waking")
    rises(asleep, raw_engine.port)
    assert {one.result(20).status_code for one in asked} == {200}


def test_who_waits_does_not_hold_up_a_portal_that_stops(portal, gateway, alice, asleep, pool, eventually):
    portal.server.config.timeout_graceful_shutdown = 60
    asked = [pool.submit(portal.chat, alice, max_tokens=5, stream=stream) for stream in (False, True)]
    eventually(lambda: woken(asleep) and _held(gateway) == 2)
    portal.server.should_exit = True
    whole_one, stream = (one.result(20) for one in asked)
    assert (whole_one.status_code, whole_one.json()["error"]["code"]) == (503, "unavailable")
    *_, last = stream.content.strip().split(b"\n\n")
    assert "restarting" in json.loads(last.removeprefix(b"data: "))["error"]["message"]


def test_a_client_that_leaves_waits_no_longer(portal, gateway, alice, asleep, eventually):
    body = {"model": "tiny", "messages": [], "max_tokens": 5, "stream": True}
    answer = portal.post(alice, "/v1/chat/completions", body, stream=True)
    eventually(lambda: _held(gateway) == 1)
    answer.close()
    eventually(lambda: _held(gateway) == 0)
    with pytest.raises(requests.Timeout):
        requests.post(
            portal.url + "/v1/chat/completions", json={**body, "stream": False}, headers=portal.headers(alice),
            timeout=0.3,
        )  # fmt: skip
    eventually(lambda: _held(gateway) == 0)
    assert reserved(alice) == [0, 0]


def test_a_key_may_be_denied_it(portal, alice, asleep, eventually):
    _, clear = keys.make(alice, {"name": "cron", "may_wake": False})
    headers = {"Authorization": f"Bearer {clear}"}
    answer = portal.post(alice, "/v1/chat/completions", {"model": "tiny", "messages": []}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_asleep")
    assert requests.get(portal.url + "/v1/models", headers=headers, timeout=20).json()["data"] == []
    assert not woken(asleep)
    keys.change(ApiKey.objects.get(), {"may_wake": True})
    assert len(requests.get(portal.url + "/v1/models", headers=headers, timeout=20).json()["data"]) == 1


def test_such_a_key_is_not_told_that_an_engine_sleeps_which_starts_afresh(
    portal, gateway, alice, raw_engine, eventually, monkeypatch
):
    """Nobody has to wake it, so that it may not wake it is not why."""
    monkeypatch.setattr(hints, "send", lambda *_: None)
    engine = ready_engine(alice, raw_engine.port)
    _, clear = keys.make(alice, {"name": "cron", "may_wake": False})
    assert ending.start_afresh(engine, NOW, "it died", restarts=1)
    eventually(lambda: knows_of_its_sleep(gateway, engine))
    for _ in range(2):
        headers = {"Authorization": f"Bearer {clear}"}
        answer = portal.post(alice, "/v1/chat/completions", {"model": "tiny", "messages": []}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_waking")
        assert answer.headers["retry-after"] == "10"
        if engine.state == State.STOPPING:
            assert lifecycle.start_afresh(engine, NOW)


def test_who_has_nothing_left_or_no_right_wakes_nobody(portal, alice, bob, asleep):
    TokenLimit.objects.filter(user=alice).update(gen_token_limit=0)
    answer = portal.chat(alice, max_tokens=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert portal.chat(bob).status_code == 404
    assert portal.post(bob, f"/engines/{asleep.pk}/v1/chat/completions", {"messages": []}).status_code == 404
    asleep.refresh_from_db()
    assert asleep.state == State.ASLEEP


def test_an_awake_engine_of_the_same_name_is_asked_and_the_other_sleeps_on(portal, alice, asleep, other_engine):
    assert portal.chat(alice, max_tokens=5).status_code == 200
    asleep.refresh_from_db()
    assert asleep.state == State.ASLEEP


@pytest.fixture
def other_engine(alice, raw_engine):
    return ready_engine(alice, raw_engine.port, name="other")


def test_it_is_listed_while_it_sleeps(portal, alice, bob, asleep):
    (model,) = portal.get(alice, "/v1/models").json()["data"]
    assert (model["id"], model["engines"]) == ("tiny", [asleep.name])
    assert portal.get(alice, f"/engines/{asleep.pk}/v1/models").json()["data"] == [model]
    assert portal.get(bob, "/v1/models").json()["data"] == []
    assert portal.get(alice, f"/v1/models/{asleep.name}").status_code in (200, 404)


def test_what_its_streams_told_of_the_last_generation_is_forgotten(
    portal, gateway, alice, asleep, raw_engine, pool, eventually
):
    def fingerprint(text: bytes) -> bytes:
        one = event("a", 7, 1).replace(b'{"id"', b'{"system_fingerprint":"%b","id"' % text)
        return sse(one, last_event(7, 1), b"[DONE]")

    for generation, name in ((2, b"one"), (3, b"two")):
        raw_engine.answer = streamed(fingerprint(name))
        asked = pool.submit(portal.chat, alice, max_tokens=5, stream=True)
        eventually(lambda: woken(asleep))
        rises(asleep, raw_engine.port)
        assert b'"system_fingerprint":"%b"' % name in asked.result(20).content
        route = gateway.routes._by_id[str(asleep.pk)]
        assert route.generation == generation
        engine = Engine.objects.get(pk=asleep.pk)
        fall_asleep(engine)
        eventually(lambda: knows_of_its_sleep(gateway, asleep))


def test_the_whole_night(portal, gateway, alice, raw_engine, pool, eventually, monkeypatch):
    """Ready, idle, asleep, woken, idle again: by the clocks that do it."""
    monkeypatch.setitem(get_config().__dict__, "idle_stop_minutes", 60)
    monkeypatch.setattr(hints, "send", lambda *_: None)
    monkeypatch.setattr(ending, "_end", lambda engine: True)
    from inference import idle

    engine = ready_engine(alice, raw_engine.port)
    for generation in (1, 2):
        Engine.objects.update(state_since=timezone.now() - timedelta(days=1))
        idle.look(timezone.now() + timedelta(hours=2))
        engine.refresh_from_db()
        assert (engine.state, engine.desired, engine.cause_code) == (State.STOPPING, "sleep", "idle")
        Engine.objects.update(state_since=timezone.now() - timedelta(days=1))
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.port, engine.generation) == (State.ASLEEP, None, generation)
        assert engine.advice == "The next request wakes it."
        eventually(lambda: knows_of_its_sleep(gateway, engine))
        asked = pool.submit(portal.chat, alice, max_tokens=5)
        eventually(lambda: woken(engine))
        rises(engine, raw_engine.port)
        assert asked.result(20).status_code == 200
        eventually(lambda: len(records()) == engine.generation - 1 and not idle._busy())  # it is in the database
