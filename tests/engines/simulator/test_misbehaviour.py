"""The stand-in misbehaving on purpose."""

import http.client
import json
import os

import pytest

from tests.engines.simulator_process import (
    USAGE,
    chat_body,
    read_to_end,
    text_of,
)
from tests.waiting import wait_until


def test_it_dies_in_mid_stream(start):
    engine = start("--simulate-dies-after", "5")
    with engine.open("/v1/chat/completions", chat_body(stream=True)) as stream:
        data = read_to_end(stream)
    assert data.count(b'"content":') == 1 + 5
    assert b"[DONE]" not in data
    assert not data.endswith(b"0\r\n\r\n")
    assert engine.wait() == 1


def test_one_request_can_be_spared(start):
    engine = start("--simulate-dies-after", "1", "--simulate-redirect")
    assert engine.chat(faults="none").status == 200
    assert engine.process.poll() is None


def test_an_error_in_mid_stream_is_followed_by_done(engine):
    before = engine.tokens()
    *events, error, done = engine.chat(faults="error-after:3", stream=True).events()
    assert len(events) == 1 + 3
    assert json.loads(error)["error"]["type"] == "InternalServerError"
    assert done == "[DONE]"
    assert engine.tokens() == (before[0] + 4, before[1] + 3)
    assert engine.running() == 0


def test_an_error_in_an_answer_of_one_piece_is_a_500(engine):
    answer = engine.chat(faults="error-after:3")
    assert (answer.status, answer.json()["error"]["code"]) == (500, 500)


@pytest.mark.parametrize(("fault", "stream"), [("hangs", False), ("hangs-after:2", True), ("hangs-after:2", False)])
def test_it_hangs_until_the_client_leaves(engine, fault, stream):
    data = bytearray()
    with engine.open("/v1/chat/completions", chat_body("Hi", fault, stream=stream)) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            read_to_end(connection, data)
    assert data.count(b'"content":') == (3 if stream else 0)
    assert b"[DONE]" not in data
    wait_until(lambda: engine.running() == 0)


def test_a_truncated_stream_looks_whole_to_http(engine):
    answer = engine.chat(faults="truncated-after:2", stream=True)
    assert len(answer.events()) == 1 + 2
    assert "[DONE]" not in answer.events()


@pytest.mark.parametrize("stream", [True, False])
def test_a_cut_answer_is_broken_http(engine, stream):
    with pytest.raises(http.client.IncompleteRead):
        engine.chat(faults="cut-after:2", stream=stream)


@pytest.mark.parametrize(
    ("fault", "completion_tokens"),
    [("usage-off:2", 7), ("usage-off:-2", 3), ("usage-huge", 10**9), ("usage-negative", -6)],
)
def test_wrong_usage_and_right_counters(engine, fault, completion_tokens):
    before = engine.tokens()
    whole = engine.chat(faults=fault, max_tokens=5).json()["usage"]
    last = engine.chat(faults=fault, max_tokens=5, **USAGE).chunks()[-1]["usage"]
    assert whole["completion_tokens"] == last["completion_tokens"] == completion_tokens
    assert whole["total_tokens"] == whole["prompt_tokens"] + completion_tokens
    assert engine.tokens() == (before[0] + 8, before[1] + 10)


def test_absent_usage(engine):
    assert "usage" not in engine.chat(faults="usage-absent").json()
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = engine.chat(faults="usage-absent", stream=True, stream_options=options).chunks()
    assert not any("usage" in chunk for chunk in chunks)


def test_invalid_json(engine):
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        engine.chat(faults="invalid-json").json()
    events = engine.chat(faults="invalid-json", stream=True).events()
    broken = 0
    for text in events[:-1]:
        try:
            json.loads(text)
        except ValueError:
            broken += 1
    assert broken == 1


def test_a_very_long_line(engine):
    answer = engine.chat(faults="long-line:300000", stream=True)
    assert max(map(len, answer.events())) > 300_000
    assert text_of(answer.chunks()) == text_of(engine.chat(stream=True).chunks())
    assert len(engine.chat(faults="long-line").data) > 1 << 20


def test_other_answers_than_json(engine):
    page = engine.chat(faults="wrong-content-type")
    assert (page.status, page.headers["content-type"]) == (200, "text/html")
    away = engine.chat(faults="redirect:http://127.0.0.1:1/x")
    assert (away.status, away.headers["location"]) == (302, "http://127.0.0.1:1/x")
    busy = engine.chat(faults="status:503")
    assert (busy.status, busy.json()["error"]["code"]) == (503, 503)


def test_characters_come_in_halves(engine):
    with engine.open("/v1/chat/completions", chat_body("Hi", "split-utf8", stream=True)) as connection:
        packets = []
        while not packets or b"[DONE]" not in packets[-1]:
            packets.append(connection.recv(1 << 16))
    # Each chunk of HTTP that ends within a character: its last byte before the CRLF begins one.
    assert any(packet[-3:-2] and packet[-3] >= 0xC0 and packet.endswith(b"\r\n") for packet in packets)
    assert "é€😀" in text_of(engine.chat(faults="split-utf8", stream=True).chunks())


def test_unhealthy_after_some_requests(start):
    engine = start("--simulate-unhealthy-after", "2")
    assert [engine.chat(max_tokens=1).status for _ in range(3)] == [200, 200, 500]
    answer = engine.get("/health")
    assert (answer.status, answer.data) == (503, b"")


def test_a_health_check_that_hangs(start):
    engine = start("--simulate-health-hangs")
    with engine.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert engine.chat().status == 200


def test_the_process_leaves_no_thread_or_child(start):
    engine = start()
    assert engine.chat().status == 200
    children = f"/proc/{engine.process.pid}/task/{engine.process.pid}/children"
    if not os.path.exists(children):
        pytest.skip("no /proc here")
    with open(children) as file:
        assert file.read() == ""
