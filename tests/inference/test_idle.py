"""Which engines are idle: by the live ledger and the records together, through HTTP."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import redis
from django.utils import timezone

from engines.models import Engine
from engines.states import State
from inference import idle, tasks
from inference.models import UsageRecord
from inference.outbox import OUTBOX
from inference.usage import flush
from tests.fakes.upstream import completion, whole
from vllm_portal.config import get_config
from vllm_portal.redis_client import client

MINUTE = timedelta(minutes=1)


@pytest.fixture
def an_hour(monkeypatch):
    monkeypatch.setitem(get_config().__dict__, "idle_stop_minutes", 60)


@pytest.fixture
def engine(engine):
    """Ready for a day."""
    Engine.objects.update(state_since=timezone.now() - timedelta(days=1))
    engine.refresh_from_db()
    return engine


def standing(engine: Engine) -> tuple[str, str]:
    engine.refresh_from_db()
    return engine.state, engine.cause_code


def test_who_has_a_request_under_way_is_not_idle(portal, alice, engine, raw_engine, an_hour, eventually):
    """However long it takes; and then it has been used until its end."""
    go_on = threading.Event()

    async def slow(request, writer) -> None:
        await asyncio.to_thread(go_on.wait, 20)
        await whole(completion())(request, writer)

    raw_engine.answer = slow
    now = timezone.now()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(portal.chat, alice, max_tokens=5)
        try:
            eventually(lambda: raw_engine.received)
            for later in (0, 61, 200):
                idle.look(now + later * MINUTE)
                assert standing(engine) == (State.READY, "")
                assert engine.used_at == now + later * MINUTE
        finally:
            go_on.set()
        assert asked.result(20).status_code == 200
    eventually(lambda: (flush() or UsageRecord.objects.exists()) and not client().exists(OUTBOX))  # and trimmed
    idle.look(now + 259 * MINUTE)
    assert (standing(engine), engine.used_at) == ((State.READY, ""), now + 200 * MINUTE)
    idle.look(now + 260 * MINUTE)
    assert standing(engine) == (State.STOPPING, "idle")
    assert engine.cause == "It had no request for 60 minutes."


def test_the_last_request_counts_until_its_end(portal, alice, engine, an_hour):
    began = timezone.now() + 10 * MINUTE
    for number, (started, minutes) in enumerate(((began, 5), (began - MINUTE, 1))):
        UsageRecord.objects.create(
            request_id=str(number), user=alice, engine=engine, model="tiny", path="/v1/chat/completions",
            prompt_tokens=1, generated_tokens=1, exact=True, outcome="completed", started_at=started,
            duration_ms=minutes * 60_000,
        )  # fmt: skip
    idle.look(began + 6 * MINUTE)
    assert (standing(engine), engine.used_at) == ((State.READY, ""), began + 5 * MINUTE)


def test_a_record_that_is_not_in_the_database_yet_counts(portal, alice, engine, an_hour, monkeypatch, eventually):
    monkeypatch.setattr("inference.usage.flush", lambda *_: 0)
    assert portal.chat(alice, max_tokens=5).status_code == 200
    eventually(lambda: client().llen(OUTBOX) == 1)  # settled, and so no longer under way
    other = json.dumps({"engine_id": "another"})  # settled in the same call
    client().lset(OUTBOX, 0, f"{other}\n{client().lindex(OUTBOX, 0)}")
    later = timezone.now() + 200 * MINUTE
    idle.look(later)
    assert (standing(engine), engine.used_at) == ((State.READY, ""), later)


def test_a_request_that_comes_at_the_last_moment_keeps_it(portal, engine, an_hour, monkeypatch):
    looks = iter([set(), {str(engine.pk)}])
    monkeypatch.setattr(idle, "_busy", lambda: next(looks))
    idle.look(engine.state_since + 100 * MINUTE)
    assert standing(engine) == (State.READY, "")


def test_one_that_nobody_ever_asked_is_idle_since_it_was_ready(portal, engine, an_hour):
    idle.look(engine.state_since + 59 * MINUTE)
    assert (standing(engine), engine.used_at) == ((State.READY, ""), engine.state_since)
    idle.look(engine.state_since + 60 * MINUTE)
    assert standing(engine) == (State.STOPPING, "idle")


def test_where_nobody_said_so_none_is_stopped(portal, engine):
    idle.look(engine.state_since + 10**6 * MINUTE)
    assert standing(engine) == (State.READY, "")


def test_one_that_gives_way_is_told_why(portal, engine, monkeypatch):
    monkeypatch.setattr("engines.reclaiming.chosen", lambda ready, now: ready)
    idle.look(timezone.now())
    assert standing(engine) == (State.STOPPING, "reclaimed")
    assert engine.cause == "It was idle, and somebody waited for its GPUs."


def test_without_redis_nobody_is_idle(engine, an_hour, monkeypatch, caplog):
    def away(*_):
        raise redis.ConnectionError("away")

    monkeypatch.setattr(idle, "_busy", away)
    monkeypatch.setattr(timezone, "now", lambda: engine.state_since + 100 * MINUTE)
    tasks.look_for_idle_engines()
    assert standing(engine) == (State.READY, "")
    assert "which engines are idle is not known" in caplog.text
