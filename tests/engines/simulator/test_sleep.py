"""The stand-in's sleep: vLLM's routes, who waits meanwhile, and what level 2 forgets."""

import socket

import pytest

from tests.engines.simulator_process import LONG, USAGE, chat_body
from tests.waiting import wait_until

DEV = {"VLLM_SERVER_DEV_MODE": "1"}
RELOAD = {"method": "reload_weights"}


@pytest.fixture
def engine(start):
    return start("--enable-sleep-mode", "--simulate-token-seconds", "0", env=DEV)


def test_without_dev_mode_there_are_no_such_routes(start):
    engine = start("--enable-sleep-mode")
    assert engine.post("/sleep?level=1", None).status == 404
    assert engine.get("/is_sleeping").status == 404
    assert engine.post("/collective_rpc", RELOAD).status == 404


@pytest.mark.parametrize(("level", "state"), [(1, "weights_offloaded"), (2, "discard_all")])
def test_it_says_that_it_sleeps_and_is_healthy(engine, level, state):
    assert engine.get("/is_sleeping").json() == {"is_sleeping": False}
    for _ in range(2):  # twice is once
        assert engine.post(f"/sleep?level={level}", None).status == 200
        assert engine.get("/is_sleeping").json() == {"is_sleeping": True}
    assert engine.get("/health").status == engine.get("/v1/models").status == 200
    assert engine.metric("vllm:engine_sleep_state", sleep_state="awake") == 0
    assert engine.metric("vllm:engine_sleep_state", sleep_state=state) == 1


def test_who_comes_meanwhile_waits_until_it_wakes(engine):
    engine.post("/sleep", None)
    with engine.open("/v1/chat/completions", chat_body(max_tokens=3)) as waiting:
        wait_until(lambda: engine.metric("vllm:num_requests_waiting") == 1)
        waiting.settimeout(0.2)
        with pytest.raises(socket.timeout):
            waiting.recv(1)
        waiting.settimeout(20)
        assert engine.post("/wake_up", None).status == 200
        assert waiting.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert engine.chat(max_tokens=3).status == 200


def test_what_it_works_on_is_aborted(start):
    engine = start(env=DEV)
    with engine.open("/v1/chat/completions", chat_body(**LONG, **USAGE)) as stream:
        wait_until(lambda: engine.running() == 1)
        engine.post("/sleep", None)
        wait_until(lambda: engine.running() == 0)
        assert b"EngineCore encountered an issue" in read_to_end_of_stream(stream)


def read_to_end_of_stream(stream):
    data = bytearray()
    while b"[DONE]" not in data:
        data += stream.recv(1 << 16)
    return bytes(data)


def test_level_2_forgets_the_weights(engine):
    def says():
        return engine.chat(max_tokens=3).json()["choices"][0]["message"]["content"]

    sense = says()
    engine.post("/sleep?level=2", None)
    engine.post("/wake_up", None)
    assert says() == "!!!"
    engine.post("/sleep?level=2", None)
    assert engine.post("/collective_rpc", RELOAD).status == 500, "there is nothing to load them into"
    engine.post("/wake_up?tags=weights", None)
    assert engine.get("/is_sleeping").json() == {"is_sleeping": True}, "until all of it is awake"
    assert engine.post("/collective_rpc", RELOAD).status == 200
    assert engine.post("/reset_prefix_cache", None).status == 200
    engine.post("/wake_up?tags=kv_cache", None)
    assert engine.get("/is_sleeping").json() == {"is_sleeping": False}
    assert says() == sense


@pytest.mark.parametrize(("fails", "paths"), [("sleep", ["/sleep"]), ("wake", ["/wake_up"])])
def test_either_can_be_made_to_fail(start, fails, paths):
    engine = start("--simulate-sleep-failure", fails, env=DEV)
    assert [path for path in ("/sleep", "/wake_up") if engine.post(path, None).status == 500] == paths
