"""What the stand-in counts, when clients leave, and who waits."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engines.simulator_process import (
    LONG,
    USAGE,
    chat_body,
    read_to_end,
)
from tests.waiting import wait_until


def test_counters_are_the_sum_of_what_usage_said(engine):
    prompt_before, generated_before = engine.tokens()
    successes = engine.metric("vllm:request_success_total")

    def ask(number):
        if number % 3:
            return engine.chat("word " * number, max_tokens=number + 1).json()["usage"]
        return engine.chat("word " * number, max_tokens=number + 1, **USAGE).chunks()[-1]["usage"]

    with ThreadPoolExecutor(8) as pool:
        usages = list(pool.map(ask, range(30)))
    prompt, generated = engine.tokens()
    assert prompt - prompt_before == sum(usage["prompt_tokens"] for usage in usages)
    assert generated - generated_before == sum(usage["completion_tokens"] for usage in usages)
    assert engine.metric("vllm:request_success_total") - successes == 30


def test_a_refused_request_counts_nothing(engine):
    before = engine.tokens()
    engine.chat(max_tokens=0)
    engine.chat(model="nope")
    assert engine.tokens() == before


@pytest.mark.parametrize("pace", ["slow:0.01", "slow:0.0005"])
def test_a_stream_that_is_left_counts_exactly_what_was_sent(engine, pace):
    before = engine.tokens()
    successes = engine.metric("vllm:request_success_total")
    with engine.open("/v1/chat/completions", chat_body("Hi", pace, stream=True, **LONG)) as connection:
        data = b""
        while data.count(b'"content":') < 6:
            data += connection.recv(1 << 16)
        assert engine.running() == 1
        assert engine.metric("vllm:kv_cache_usage_perc") > 0
        # Half a close is a leave for the engine, but lets us read on and so know all that it sent.
        connection.shutdown(socket.SHUT_WR)
        data += read_to_end(connection)
    wait_until(lambda: engine.running() == 0)
    sent = data.count(b'"content":') - 1  # the first event has the role
    assert 5 <= sent < LONG["max_tokens"]
    assert engine.tokens() == (before[0] + 4, before[1] + sent)
    assert engine.metric("vllm:request_success_total") == successes


def test_an_answer_in_one_piece_that_is_left_stops_too(engine):
    _, before = engine.tokens()
    with engine.open("/v1/chat/completions", chat_body("Hi", "slow:0.01", **LONG)):
        wait_until(lambda: engine.tokens()[1] > before)
    wait_until(lambda: engine.running() == 0)
    stopped = engine.tokens()
    engine.chat(max_tokens=1)
    assert engine.tokens()[1] == stopped[1] + 1


def test_who_leaves_before_the_first_token_costs_nothing(engine):
    before = engine.tokens()
    with engine.open("/v1/chat/completions", chat_body("Hi", "late:60", stream=True)):
        wait_until(lambda: engine.running() == 1)
    wait_until(lambda: engine.running() == 0)
    assert engine.tokens() == before


def test_max_num_seqs_makes_the_others_wait(start):
    engine = start("--max-num-seqs", "1")
    body = chat_body("Hi", "slow:0.01", **LONG)
    with (
        engine.open("/v1/chat/completions", body) as first,
        engine.open("/v1/chat/completions", chat_body("two", max_tokens=1)) as second,
    ):
        wait_until(lambda: engine.metric("vllm:num_requests_waiting") == 1)
        with engine.open("/v1/chat/completions", body):
            wait_until(lambda: engine.metric("vllm:num_requests_waiting") == 2)
        wait_until(lambda: engine.metric("vllm:num_requests_waiting") == 1)  # the third left the queue
        assert engine.running() == 1
        first.close()
        data = bytearray()
        wait_until(lambda: b'"finish_reason":"length"' in data or data.extend(second.recv(1 << 16)))
    wait_until(lambda: engine.running() == 0)
    assert engine.metric("vllm:num_requests_waiting") == 0


def test_many_streams_at_once_are_counted_exactly(start):
    engine = start("--simulate-token-seconds", "0.001", "--max-num-seqs", "32")

    def ask(number):
        return engine.chat(f"number {number}", max_tokens=40, ignore_eos=True, **USAGE).chunks()[-1]["usage"]

    with ThreadPoolExecutor(64) as pool:
        usages = list(pool.map(ask, range(128)))
    assert [usage["completion_tokens"] for usage in usages] == [40] * 128
    assert engine.tokens() == (sum(usage["prompt_tokens"] for usage in usages), 40 * 128)
    assert engine.metric("vllm:time_to_first_token_seconds_count") == 128


def test_the_pace_is_no_faster_than_asked_for(engine):
    begun = time.monotonic()
    engine.chat(faults="slow:0.02,late:0.2", max_tokens=11)
    assert time.monotonic() - begun > 0.38
