"""Turns: one at a time, also between processes, and nobody waits for the dead."""

from itertools import pairwise

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from engines import turns
from engines.turns import turn
from tests.threads import at_once
from tests.waiting import wait_until
from vllm_portal.redis_client import client


def test_one_at_a_time_and_then_the_next():
    with turn("a") as first, turn("a") as second, turn("b") as other:
        assert (first, second, other) == (True, False, True)
    with turn("a") as third:
        assert third


def test_of_many_at_once_one_has_it():
    held = []

    def act():
        with turn("a") as mine:
            if mine:
                held.append(1)
                wait_until(lambda: len(refused) == 4)
            else:
                refused.append(1)

    refused = []
    at_once(*[act] * 5)
    assert len(held) == 1


def test_who_waits_gets_it_once_it_is_given_back():
    order = []

    def first():
        with turn("a") as mine:
            assert mine
            order.append("first")
            wait_until(lambda: waiting)

    def second():
        wait_until(lambda: order)
        waiting.append(1)
        with turn("a", wait_s=10) as mine:
            order.append(mine)

    waiting = []
    at_once(first, second)
    assert order == ["first", True]


def test_another_processs_turn_counts():
    client().set("engines:turn:a", "somebody", px=60_000)
    with turn("a") as mine:
        assert not mine
    assert client().get("engines:turn:a") == "somebody", "what is not ours is not given back"


def test_the_dead_give_theirs_back():
    client().set("engines:turn:a", "somebody who was killed", px=100)
    with turn("a", wait_s=10) as mine:
        assert mine


def test_a_turn_that_is_held_is_renewed(monkeypatch):
    monkeypatch.setattr(turns, "TTL_MS", 400)
    monkeypatch.setattr(turns, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(turns, "_renewer", None)
    with turn("a"):
        lives = [client().pttl("engines:turn:a")]
        wait_until(lambda: lives.append(client().pttl("engines:turn:a")) or any(b > a for a, b in pairwise(lives)))
    assert not client().exists("engines:turn:a")


def test_an_error_gives_it_back():
    with pytest.raises(KeyError), turn("a"):
        raise KeyError
    with turn("a") as mine:
        assert mine


def test_without_redis_turns_count_within_the_process(monkeypatch):
    away = redis.Redis(port=1, socket_connect_timeout=0.2, retry=Retry(NoBackoff(), 0))
    monkeypatch.setattr(turns, "client", lambda: away)
    with turn("a") as first, turn("a") as second:
        assert (first, second) == (True, False)
    with turn("a") as third:
        assert third
