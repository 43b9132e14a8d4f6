"""Requests for an engine in vLLM's own sleep: none reaches it, each wakes it, none hangs; and nothing of what makes it
sleep can be asked for from outside."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import product

import pytest
import requests
from django.utils import timezone

from accounts import keys
from accounts.models import TokenLimit
from engines import ending, hints, lifecycle, sleeping
from engines.models import Engine
from engines.states import State
from inference import audit, idle, usage
from inference.models import UsageRecord
from tests.engines.simulator_process import SimulatorProcess
from tests.fakes.upstream import completion, http, streamed
from tests.inference.conftest import NOW, ready_engine
from tests.inference.ledger_seen import records, reserved
from tests.inference.test_wakes import STREAM
from tests.live_rows import open_requests
from vllm_portal.config import get_config

MINUTE = timedelta(minutes=1)
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
DEV = {"VLLM_SERVER_DEV_MODE": "1"}
DEV_PATHS = [
    "/sleep", "/sleep?level=1", "/wake_up", "/is_sleeping", "/collective_rpc", "/reset_prefix_cache",
    "/reset_mm_cache", "/reset_encoder_cache", "/server_info", "/pause", "/resume", "/is_paused", "/update_weights",
    "/init_weight_transfer", "/start_profile", "/stop_profile", "/get_world_size",
]  # fmt: skip
"""What VLLM_SERVER_DEV_MODE=1 opens in some version."""


@pytest.fixture
def sleeper(gateway, alice, raw_engine, eventually, monkeypatch):
    """alice's engine, in vLLM's sleep. Nobody wakes it but `comes_back`."""
    monkeypatch.setattr(hints, "send", lambda *_: None)
    engine = ready_engine(alice, raw_engine.port)
    eventually(lambda: str(engine.pk) in gateway.routes._by_id)
    dozes(engine)
    eventually(lambda: rests(gateway, engine))
    return engine


@pytest.fixture
def pool():
    with ThreadPoolExecutor(32) as pool:
        yield pool


def dozes(engine: Engine) -> None:
    assert lifecycle.doze(engine, NOW, "the portal")
    Engine.objects.filter(pk=engine.pk).update(slept_at=NOW)


def rests(gateway, engine: Engine) -> bool:
    """The web process knows it."""
    return gateway.asleep.resting(str(engine.pk)) is not None


def woken(engine: Engine) -> bool:
    engine.refresh_from_db()
    return engine.state == State.WAKING


def comes_back(engine: Engine) -> None:
    """What the worker does with one that was woken."""
    assert lifecycle.move(Engine.objects.get(pk=engine.pk), State.WAKING, State.READY, NOW, slept_at=None)


@pytest.mark.parametrize("way", ["/v1/chat/completions", "engine", "/llm_request"])
def test_a_request_wakes_its_engine_and_is_answered(portal, alice, sleeper, raw_engine, pool, eventually, way):
    body, path = BODY, way
    if way == "engine":
        path = f"/engines/{sleeper.pk}/v1/chat/completions"
    elif way == "/llm_request":
        body = {"model": "tiny", "prompt": "hi", "memory": False}
    asked = pool.submit(portal.post, alice, path, body)
    eventually(lambda: woken(sleeper))
    assert (raw_engine.received, reserved(alice), asked.done()) == ([], [0, 0], False)
    comes_back(sleeper)
    answer = asked.result(20)
    assert answer.status_code == 200, answer.text
    eventually(lambda: len(records()) == 1)
    sleeper.refresh_from_db()
    assert (sleeper.generation, sleeper.state) == (1, State.READY)


def test_many_at_once_wake_it_once(portal, alice, sleeper, pool, eventually):
    TokenLimit.objects.filter(user=alice).update(prompt_token_limit=10**6, gen_token_limit=10**6)
    asked = [pool.submit(portal.chat, alice, max_tokens=5) for _ in range(32)]
    eventually(lambda: woken(sleeper))
    comes_back(sleeper)
    assert {one.result(20).status_code for one in asked} == {200}
    assert [str(one) for one in sleeper.events.all()].count("SLEEPING -> WAKING") == 1


def test_who_waits_for_a_stream_is_told_how_far_it_is(portal, alice, sleeper, raw_engine, eventually):
    raw_engine.answer = streamed(STREAM)
    answer = portal.post(alice, "/v1/chat/completions", {**BODY, "stream": True}, stream=True)
    lines = answer.iter_lines()
    assert next(lines) == b": waking"
    eventually(lambda: woken(sleeper))
    lifecycle.progress(Engine.objects.get(pk=sleeper.pk), NOW, "its weights come back")
    assert next(line for line in lines if b"weights" in line) == b": waking its weights come back"
    comes_back(sleeper)
    assert b"\n".join(line for line in lines if not line.startswith(b":")).strip().endswith(b"data: [DONE]")


def test_one_that_does_not_wake_in_time_says_when_to_come_again(portal, gateway, alice, sleeper, monkeypatch):
    monkeypatch.setattr(gateway.wakes, "_timeout_s", 0.3)
    answer = portal.chat(alice, max_tokens=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_waking")
    assert int(answer.headers["retry-after"]) > 0
    assert woken(sleeper)


def test_one_that_dies_meanwhile_says_why(portal, alice, sleeper, pool, eventually):
    asked = pool.submit(portal.chat, alice, max_tokens=5)
    eventually(lambda: woken(sleeper))
    assert lifecycle.failed(Engine.objects.get(pk=sleeper.pk), NOW, "out_of_memory", "It was killed.")
    answer = asked.result(20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert "It was killed." in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/llm_request"])
def test_a_key_may_be_denied_it(portal, alice, sleeper, path):
    _, clear = keys.make(alice, {"name": "cron", "may_wake": False})
    body = {**BODY, "prompt": "hi", "memory": False}
    answer = portal.post(alice, path, body, headers={"Authorization": f"Bearer {clear}"})
    assert answer.status_code == 503
    assert "may not wake it" in answer.text
    assert not woken(sleeper)


def test_who_has_nothing_left_or_no_right_wakes_nobody(portal, alice, bob, sleeper):
    TokenLimit.objects.filter(user=alice).update(gen_token_limit=0)
    assert portal.chat(alice, max_tokens=5).status_code == 429
    assert portal.chat(bob).status_code == 404
    assert not woken(sleeper)


def test_it_is_listed_and_listing_wakes_nobody(portal, alice, bob, sleeper):
    (model,) = portal.get(alice, "/v1/models").json()["data"]
    assert (model["id"], model["engines"]) == ("tiny", [sleeper.name])
    assert portal.get(bob, "/v1/models").json()["data"] == []
    assert not woken(sleeper)


@pytest.mark.parametrize("way", ["short", "long"])
def test_what_waited_for_its_turn_when_it_fell_asleep_is_held_and_not_sent(
    portal, gateway, alice, raw_engine, pool, eventually, monkeypatch, way
):
    """vLLM would leave it unanswered."""
    monkeypatch.setattr(hints, "send", lambda *_: None)
    gateway._at_once = 1
    go_on = threading.Event()

    async def slow(request, writer) -> None:
        await asyncio.to_thread(go_on.wait, 20)
        writer.write(http(completion()))

    engine = ready_engine(alice, raw_engine.port)
    eventually(lambda: str(engine.pk) in gateway.routes._by_id)
    line = gateway.routes._by_id[str(engine.pk)].line
    eventually(lambda: line._most == 1)
    headers = portal.headers(alice)  # who is known already goes the short way
    assert portal.post(alice, "/v1/chat/completions", BODY, headers=headers).status_code == 200
    eventually(lambda: portal.long_way == 1)
    raw_engine.answer = slow
    if way == "long":
        headers["content-encoding"] = "identity"
    first = pool.submit(portal.post, alice, "/v1/chat/completions", BODY, headers=headers)
    eventually(lambda: len(raw_engine.received) == 2)
    second = pool.submit(portal.post, alice, "/v1/chat/completions", BODY, headers=headers)
    eventually(lambda: line.waiting == 1)
    dozes(engine)
    eventually(lambda: rests(gateway, engine))
    go_on.set()
    assert first.result(20).status_code == 200
    eventually(lambda: woken(engine))
    assert (len(raw_engine.received), second.done(), reserved(alice)) == (2, False, [0, 0])
    comes_back(engine)
    assert second.result(20).status_code == 200
    eventually(lambda: len(records()) == 3)
    eventually(lambda: portal.long_way == {"short": 2, "long": 3}[way])  # who waits has left the short way


@pytest.mark.parametrize("before", ["", "/v1", "/v1/completions", "/engines/{}", "/engines/{}/v1", "/engines/{}/v1/.."])
def test_nothing_that_dev_mode_opens_is_reached_from_outside(portal, engine, alice, root, raw_engine, before):
    session = requests.Session()
    headers = [portal.headers(alice), portal.headers(root)]
    for path, method, who in product(DEV_PATHS, ("POST", "GET"), headers):
        url = portal.url + before.format(engine.id) + path
        answer = session.request(method, url, json=BODY, headers=who, timeout=20)
        assert answer.status_code in (404, 405), (method, url, answer.status_code)
    assert raw_engine.received == []


class TestByTheClocks:
    @pytest.fixture
    def engine(self, engine, monkeypatch):
        """Ready for a day, and may sleep after 15 minutes and is to be stopped after 60."""
        for name, value in {"sleep_level": 1, "sleep_minutes": 15, "idle_stop_minutes": 60}.items():
            monkeypatch.setitem(get_config().__dict__, name, value)
        monkeypatch.setattr(hints, "send", lambda *_: None)
        Engine.objects.update(state_since=timezone.now() - timedelta(days=1), sleep_level=1)
        engine.refresh_from_db()
        return engine

    def standing(self, engine: Engine) -> str:
        engine.refresh_from_db()
        return engine.state

    def test_it_dozes_and_after_a_longer_while_it_is_stopped(self, engine):
        since = engine.state_since
        for minutes, state in ((14, State.READY), (15, State.SLEEPING), (59, State.SLEEPING), (60, State.STOPPING)):
            idle.look(since + minutes * MINUTE)
            assert self.standing(engine) == state
        assert (engine.desired, engine.cause) == ("sleep", "It had no request for 60 minutes.")

    def test_one_that_is_due_to_be_stopped_is_stopped(self, engine):
        idle.look(engine.state_since + 100 * MINUTE)
        assert self.standing(engine) == State.STOPPING

    def test_a_request_that_comes_at_the_last_moment_keeps_it_awake(self, engine, monkeypatch):
        looks = iter([set(), {str(engine.pk)}])
        monkeypatch.setattr(idle, "_busy", lambda: next(looks))
        idle.look(engine.state_since + 20 * MINUTE)
        assert self.standing(engine) == State.READY

    @pytest.mark.parametrize("slept", [False, True])
    def test_one_that_has_a_request_all_the_same_is_woken(
        self, portal, engine, alice, raw_engine, pool, eventually, slept
    ):
        """It was sent on a route that this process had not dropped yet."""
        go_on = threading.Event()

        async def slow(request, writer) -> None:
            await asyncio.to_thread(go_on.wait, 20)
            writer.write(http(completion()))

        raw_engine.answer = slow
        asked = pool.submit(portal.chat, alice, max_tokens=5)
        try:
            eventually(lambda: raw_engine.received)
            assert lifecycle.doze(engine, NOW, "the portal")
            if slept:
                Engine.objects.update(slept_at=NOW)
            idle.look(timezone.now())
            assert self.standing(engine) == State.WAKING
        finally:
            go_on.set()
        assert asked.result(20).status_code == 200

    def test_one_that_gives_way_is_told_why(self, engine, monkeypatch):
        idle.look(engine.state_since + 20 * MINUTE)
        monkeypatch.setattr("engines.reclaiming.chosen", lambda engines, now: list(engines))
        idle.look(engine.state_since + 21 * MINUTE)
        assert (self.standing(engine), engine.cause_code) == (State.STOPPING, "reclaimed")


class TestARealEngine:
    """The stand-in, which leaves unanswered what comes while it sleeps."""

    @pytest.fixture(params=[1, 2])
    def used(self, request, portal, alice, limit, eventually, monkeypatch):
        """An engine that has answered a request, and sleeps."""
        monkeypatch.setattr(ending, "KNOWN", timedelta(0))
        monkeypatch.setattr(hints, "send", lambda *_: None)
        limit(alice, prompt=10**6, generated=10**6)
        with SimulatorProcess("--served-model-name", "acme/tiny", "x", env=DEV) as process:
            engine = ready_engine(alice, process.ready().port, model="acme/tiny", name="x")
            Engine.objects.update(sleep_level=request.param)
            assert portal.chat(alice, model="acme/tiny", max_tokens=4).status_code == 200
            eventually(lambda: not open_requests() and (usage.flush(), UsageRecord.objects.count() == 1)[1])
            assert sleeping.put_to_sleep(engine, timezone.now(), "the portal")
            sleeping.go_on(engine.pk)
            assert process.get("/is_sleeping").json() == {"is_sleeping": True}
            yield engine, process

    def test_it_sleeps_wakes_and_its_tokens_are_all_accounted(self, portal, gateway, alice, used, pool, eventually):
        engine, process = used
        assert audit.look() == []
        eventually(lambda: rests(gateway, engine))
        asked = pool.submit(portal.chat, alice, model="acme/tiny", max_tokens=4)
        eventually(lambda: woken(engine))
        assert process.metric("vllm:num_requests_waiting") == 0
        assert audit.look() == []
        sleeping.go_on(engine.pk)
        answer = asked.result(20)
        assert (answer.status_code, "!!" in answer.text) == (200, False)
        eventually(lambda: not open_requests() and (usage.flush(), UsageRecord.objects.count() == 2)[1])
        engine.refresh_from_db()
        assert (engine.state, engine.generation, engine.probe_generated_tokens) == (State.READY, 1, 1)
        assert audit.look() == []
