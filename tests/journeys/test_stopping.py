"""Somebody stops an engine by hand while it answers: the answer ends first, unless the engine is to end now."""

import json
import time

import requests

from tests.journeys import whole_way
from tests.journeys.portal_process import PortalProcess

MODEL = "some-org/some-model"
TOKENS = 100


def test_what_it_answers_ends_first_unless_it_is_to_end_now(tmp_path):
    portal = PortalProcess(
        tmp_path, launcher="simulator", stop_engines_on_exit="true", reconcile_seconds=0.5,
        simulator_args="--simulate-token-seconds=0.05",
    )  # fmt: skip

    def asked(**more):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True, **more}
        return requests.post(
            portal.url + "/v1/chat/completions", json=body, headers=alice.headers, timeout=60, stream=True
        )

    def states():
        return [row["state"] for row in portal.database_rows("select state from engines_engine order by created_at")]

    try:
        alice = portal.start().admin().add_user("alice", "correct horse")
        for number, now in enumerate([False, True]):
            engine = whole_way.start(alice, MODEL, 2048, 60)
            with asked(stream=True, max_tokens=TOKENS) as answer:
                lines = answer.iter_lines()
                next(lines)
                began = time.monotonic()
                stopped = alice.post(
                    "/vllm_request/terminate", container_id=engine["container_id"], **({"now": True} if now else {})
                )
                took_s = time.monotonic() - began
                events = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
            assert stopped.json() == {"status": "terminated", "container_id": engine["container_id"]}
            assert states()[number] == "STOPPED"
            if now:
                assert "error" in json.loads(events[-2]), "who reads is told"
                assert took_s < 0.05 * TOKENS
            else:
                assert events[-1] == b"[DONE]"
                assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
                assert took_s > 0.05 * TOKENS * 0.8, "the stop waited for the answer"
            assert asked(max_tokens=1).status_code == 404
        assert portal.audit() == "all is as it must be\n"
    finally:
        portal.stop()
