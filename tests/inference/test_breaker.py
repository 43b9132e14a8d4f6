"""An engine that cannot be reached is left alone for a while."""

import socket

import pytest

from inference.breaker import FAILURES, LONGEST_PAUSE_S, Breaker
from tests.inference.conftest import ready_engine
from tests.inference.ledger_seen import records, reserved


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.lets_through(0.0)
        breaker.failed(0.0)
    return breaker


def test_after_some_failures_one_request_a_pause_may_try():
    breaker = opened()
    assert not breaker.lets_through(0.9)
    assert breaker.lets_through(1.0)
    assert not breaker.lets_through(1.1)
    breaker.failed(1.2)
    assert not breaker.lets_through(3.1)
    assert breaker.lets_through(3.2)


def test_an_answer_closes_it_and_forgets_the_failures():
    breaker = opened()
    assert breaker.lets_through(1.0)
    breaker.answered()
    assert breaker.lets_through(1.0)
    breaker.failed(1.0)
    assert breaker.lets_through(1.0)


def test_the_pause_is_bounded():
    breaker = opened()
    for _ in range(50):
        breaker.failed(0.0)
    assert breaker.wait_s(0.0) == LONGEST_PAUSE_S
    assert breaker.wait_s(LONGEST_PAUSE_S + 1) == 0.0


def test_an_engine_that_refuses_connections_is_soon_not_asked_any_more(portal, gateway, alice, eventually):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ready_engine(alice, port)
    answers = [portal.chat(alice, max_tokens=3) for _ in range(FAILURES)]
    assert not any("several times" in answer.text for answer in answers)
    refused = portal.chat(alice, max_tokens=3)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert "several times" in refused.text
    assert int(refused.headers["retry-after"]) >= 1
    eventually(lambda: reserved(alice) == [0, 0] and len(records()) == FAILURES)
    (route,) = gateway.routes._by_id.values()
    assert route.breaker.is_open


@pytest.fixture
def breaker(gateway, engine, eventually) -> Breaker:
    """Of the engine of the test."""
    eventually(lambda: gateway.routes._by_id)
    (route,) = gateway.routes._by_id.values()
    return route.breaker


def test_an_engine_that_is_left_alone_is_not_asked(portal, gateway, breaker, alice, raw_engine, eventually):
    for _ in range(FAILURES + 10):
        breaker.failed(gateway.loop.time())
    assert portal.chat(alice, max_tokens=3).status_code == 503
    breaker.answered()
    assert portal.chat(alice, max_tokens=3).status_code == 200
    assert len(raw_engine.received) == 1
    eventually(lambda: reserved(alice) == [0, 0])


def test_failures_count_in_a_row(portal, breaker, alice):
    for _ in range(FAILURES - 1):
        breaker.failed(0.0)
    assert portal.chat(alice, max_tokens=3).status_code == 200
    breaker.failed(0.0)
    assert not breaker.is_open


def test_an_engine_that_can_be_reached_is_asked_however_badly_it_answers(portal, breaker, alice, raw_engine):
    async def breaks_off(request, writer) -> None:
        writer.close()

    raw_engine.answer = breaks_off
    assert [portal.chat(alice, max_tokens=3).status_code for _ in range(FAILURES + 2)] == [502] * (FAILURES + 2)
    assert not breaker.is_open
