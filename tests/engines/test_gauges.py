"""How busy an engine is: read from vLLM's metrics, noted at a look, shown to those who look."""

import itertools
import uuid

import pytest
import redis
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from engines import cards, checking, gauges, metrics
from engines.gauges import Gauges
from engines.metrics import Metrics
from engines.models import Engine
from engines.states import State
from vllm_portal.redis_client import client

# Lines of a vLLM 0.32 with two engine cores.
TOLD = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="acme/tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="acme/tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="acme/tiny"} 1.0
vllm:num_requests_waiting{engine="1",model_name="acme/tiny"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="acme/tiny",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="acme/tiny"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="acme/tiny"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="acme/tiny"} 1.2e+06
vllm:prompt_tokens_created{engine="0",model_name="acme/tiny"} 1.78e+09
vllm:generation_tokens_total{engine="0",model_name="acme/tiny"} 250.0
vllm:generation_tokens_total{engine="1",model_name="acme/tiny"} 50.0
"""


def test_of_several_engine_cores_counters_are_summed_and_the_cache_is_the_mean():
    assert metrics.parse(TOLD) == Metrics(1_200_000, 300, 5, 1, 0.375)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        TOLD.replace(b"250.0", b"many"),
        TOLD.replace(b"250.0", b"NaN"),
        TOLD.replace(b"250.0", b"-1.0"),
        TOLD.replace(b"250.0", b"+Inf"),
        b"\n".join(line for line in TOLD.split(b"\n") if b"prompt_tokens_total" not in line),
    ],
)
def test_what_is_not_whole_tells_nothing(text):
    assert metrics.parse(text) is None


@given(st.binary() | st.builds(lambda text, at: TOLD[:at] + text + TOLD[at:], st.binary(), st.integers(0, len(TOLD))))
def test_whatever_an_engine_sends_is_read_without_trouble(text):
    told = metrics.parse(text)
    assert told is None or (min(told.prompt_tokens, told.running) >= 0 and (told.kv_cache_use or 0) <= 1)


def test_rates_are_those_between_two_looks():
    first = gauges.since(None, Metrics(100, 1000, 2, 0, 0.12345), 50.0)
    assert first == Gauges(50.0, 2, 0, 0.123, 100, 1000, None, None)
    later = gauges.since(first, Metrics(150, 1500, 1, 0, None), 52.0)
    assert (later.prompt_tokens_per_s, later.generated_tokens_per_s, later.kv_cache_use) == (25.0, 250.0, None)


@pytest.mark.parametrize(("told", "at"), [(Metrics(100, 999, 0, 0, 0), 52.0), (Metrics(100, 1000, 0, 0, 0), 50.0)])
def test_counters_that_went_back_or_a_clock_that_stood_make_no_rate(told, at):
    assert gauges.since(Gauges(50.0, 0, 0, 0, 100, 1000, 1.0, 1.0), told, at).generated_tokens_per_s is None


@pytest.mark.parametrize("ready", [1, 40, 41, 200, 1000])
def test_of_many_some_are_asked_each_round_and_each_within_the_time_it_is_kept(ready):
    engines = [Engine(pk=uuid.UUID(int=number * 7919)) for number in range(ready)]
    rounds = [[engine.pk for engine in engines if gauges.due(engine, ready, 2.0 * at)] for at in range(30)]
    period = -(-ready // gauges.AT_ONCE)
    assert max(map(len, rounds)) <= 2 * gauges.AT_ONCE
    for begin in range(30 - period):
        assert sorted(itertools.chain(*rounds[begin : begin + period])) == sorted(engine.pk for engine in engines)


@pytest.mark.django_db(transaction=True)
class TestNoted:
    def test_what_is_noted_is_read_for_those_that_are_ready(self, engine_in):
        ready, other, stopped = engine_in(State.READY), engine_in(State.READY), engine_in(State.STOPPED)
        for engine in (ready, stopped):
            gauges.note(engine, Metrics(1, 2, 3, 4, 0.5), at=10.0)
        gauges.note(ready, Metrics(9, 9, 9, 9, 0.5), at=10.0 + gauges.SHORTEST_S / 2)
        gauges.note(ready, Metrics(21, 42, 1, 0, 0.5), at=20.0)
        assert gauges.of([ready, other, stopped]) == {ready.pk: Gauges(20.0, 1, 0, 0.5, 21, 42, 2.0, 4.0)}

    def test_it_is_forgotten_soon(self, engine_in):
        engine = engine_in(State.READY)
        gauges.note(engine, Metrics(1, 2, 3, 4, 0.5), at=10.0)
        (key,) = client().keys(f"*{engine.pk.hex}*")
        assert 0 < client().ttl(key) <= gauges.KEPT_S

    def test_another_process_of_the_engine_begins_anew(self, engine_in):
        engine = engine_in(State.READY)
        gauges.note(engine, Metrics(1, 2, 3, 4, 0.5), at=10.0)
        engine.generation += 1
        assert gauges.of([engine]) == {}

    def test_without_redis_nobody_is_told_and_nothing_fails(self, engine_in, monkeypatch):
        def away():
            raise redis.ConnectionError("away")

        engine = engine_in(State.READY)
        monkeypatch.setattr(gauges, "client", away)
        gauges.note(engine, Metrics(1, 2, 3, 4, 0.5), at=10.0)
        assert gauges.of([engine]) == {}

    def test_what_an_older_version_noted_is_no_trouble(self, engine_in):
        engine = engine_in(State.READY)
        gauges.note(engine, Metrics(1, 2, 3, 4, 0.5), at=10.0)
        (key,) = client().keys(f"*{engine.pk.hex}*")
        client().set(key, '{"at": 1}')
        assert gauges.of([engine]) == {}


@pytest.mark.django_db(transaction=True)
class TestShown:
    def test_a_look_notes_what_the_engine_counts(self, served):
        engine, process = served(State.READY)
        checking.check(engine.pk)
        told = gauges.of([engine])[engine.pk]
        assert (told.prompt_tokens, told.generated_tokens) == process.tokens()
        assert (told.running, told.waiting, told.kv_cache_use) == (0, 0, 0.0)

    def test_the_card_and_the_page_say_it(self, alice, engine_in):
        engine = engine_in(State.READY)
        note(engine, (Metrics(0, 0, 0, 0, 0), 10.0), (Metrics(0, 3000, 5, 1, 0.125), 12.0))
        browser = Client()
        browser.force_login(alice)
        for path in ("/", f"/engine/{engine.pk}"):
            page = browser.get(path).content.decode()
            assert "5 running, 1 waiting · 1,500 tokens/s" in page
            assert 'value="12"' in page

    def test_an_engine_that_tells_nothing_has_no_line_of_it(self, alice, engine_in):
        engine_in(State.READY)
        browser = Client()
        browser.force_login(alice)
        assert "running" not in browser.get("/cards").content.decode()

    def test_a_page_is_told_when_what_it_shows_of_it_changes(self, alice, engine_in):
        engine = engine_in(State.READY)
        seen = [cards.digest(alice)]
        for told, at in ((Metrics(0, 0, 0, 0, 0), 10), (Metrics(0, 90, 1, 0, 0), 12), (Metrics(0, 180, 1, 0, 0), 14)):
            note(engine, (told, at))
            seen.append(cards.digest(alice))
        changes = [before != after for before, after in itertools.pairwise(seen)]
        assert changes == [True, True, False]

    def test_the_api_says_it_of_one_and_of_many(self, alice, client_of, engine_in):
        engine, silent = engine_in(State.READY), engine_in(State.READY)
        note(engine, (Metrics(0, 0, 0, 0, 0), 10.0), (Metrics(50, 3000, 5, 1, 0.125), 12.0))
        said = {
            "running": 5,
            "waiting": 1,
            "kv_cache_use": 0.125,
            "prompt_tokens_per_s": 25.0,
            "generated_tokens_per_s": 1500.0,
        }
        assert client_of(alice).get(f"/api/v1/engines/{engine.pk}").json()["live"] == said
        listed = {each["name"]: each["live"] for each in client_of(alice).get("/api/v1/engines").json()["results"]}
        assert listed == {engine.name: said, silent.name: None}


def note(engine: Engine, *looks: tuple[Metrics, float]) -> None:
    for told, at in looks:
        gauges.note(engine, told, at)
