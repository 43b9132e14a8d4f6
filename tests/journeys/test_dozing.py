"""An engine that nobody asks, by the portal's own clocks: it dozes, outlives a restart of the portal, and wakes."""

import time
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.journeys import whole_way
from tests.journeys.portal_process import PortalProcess

MODEL = "some-org/some-model"
ALL_WELL = "all is as it must be\n"


def test_it_dozes_over_a_restart_and_a_stream_wakes_it(tmp_path):
    portal = PortalProcess(
        tmp_path, launcher="simulator", stop_engines_on_exit="true", reconcile_seconds=0.5, sleep_level=2,
        sleep_minutes=1, simulator_args="--simulate-sleep-seconds=0.3",
    )  # fmt: skip
    try:
        alice = portal.start().admin().add_user("alice", "correct horse")
        engine = whole_way.start(alice, MODEL, 2048, 60)
        (started,) = portal.database_rows("select * from engines_engine")
        portal.change_rows("update engines_engine set state_since = '2020-01-01 00:00:00', used_at = null")

        def row() -> dict:
            return portal.database_rows("select * from engines_engine")[0]

        portal.wait_for(lambda: row()["slept_at"], 60, "the engine to doze")
        assert (row()["state"], portal.audit()) == ("SLEEPING", ALL_WELL)
        portal.kill()
        portal.start()
        assert (row()["state"], row()["container_id"]) == ("SLEEPING", started["container_id"])
        (listed,) = alice.get("/active_models/").json()
        assert listed["container_id"] == engine["container_id"]

        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": True}
        answer = requests.post(portal.url + "/v1/chat/completions", json=body, headers=alice.headers, timeout=60)
        first, *_, end = answer.text.strip().split("\n\n")
        assert (answer.status_code, first, end) == (200, ": waking", "data: [DONE]")
        assert "!!" not in answer.text, "its weights were read again"
        kept = ("state", "generation", "container_id", "port")
        assert [row()[name] for name in kept] == ["READY", *(started[name] for name in kept[1:])]
        records = "select outcome from inference_usagerecord"
        portal.wait_for(lambda: portal.database_rows(records), 10, "the record")
        assert portal.audit() == ALL_WELL
    finally:
        portal.stop()


def test_who_waits_for_it_is_let_go_at_once_when_the_portal_stops(tmp_path):
    """Also where the pages' process holds the request."""
    portal = PortalProcess(
        tmp_path, launcher="simulator", stop_engines_on_exit="true", reconcile_seconds=0.5, cpu_slots=1
    )
    try:
        alice = portal.start().admin().add_user("alice", "correct horse")
        whole_way.start(alice, MODEL, 2048, 60)
        portal.change_rows(
            "update engines_engine set state = 'STOPPING', desired = 'sleep', cause_code = 'idle', "
            "state_since = '2020-01-01 00:00:00'"
        )
        states = "select state from engines_engine order by created_at"
        portal.wait_for(lambda: portal.database_rows(states)[0]["state"] == "ASLEEP", 60, "the engine to sleep")
        whole_way.start(alice, "some-org/another", 2048, 60)  # so that the first one has no place to wake
        with ThreadPoolExecutor() as pool:
            asked = [
                pool.submit(alice.post, "/llm_request", model=MODEL, prompt="Hello", stream=stream)
                for stream in (False, True)
            ]
            portal.wait_for(lambda: portal.database_rows(states)[0]["state"] == "QUEUED", 60, "the wish to wake it")
            began = time.monotonic()
            ended = pool.submit(portal.stop)
            answers = [one.result(30) for one in asked]
            took_s = time.monotonic() - began
            assert ended.result(60) == 0
        for answer in answers:
            assert (answer.status_code, list(answer.json())) == (503, ["detail"]), answer.text
            assert "restarting" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) > 0
        assert took_s < 8, "not after the ten seconds of a web process that stops"
    finally:
        portal.stop()
