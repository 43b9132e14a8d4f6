"""An engine that nobody asks, by the portal's own clocks: it dozes, outlives a restart of the portal, and wakes."""

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
