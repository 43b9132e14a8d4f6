"""The whole way on the stand-in engine, and what a restart of the portal does to engines."""

import pytest

from tests.journeys import whole_way
from tests.journeys.portal_process import PortalProcess


@pytest.fixture
def portal(tmp_path):
    portal = PortalProcess(tmp_path, launcher="simulator", stop_engines_on_exit="true", reconcile_seconds=0.5)
    yield portal
    portal.stop()


def test_the_whole_way_on_the_stand_in_engine(portal):
    whole_way.travel(portal.start(), "some-org/some-model", max_model_len=2048, start_timeout_s=60)


def test_engines_survive_the_portal_and_are_adopted(portal):
    alice = portal.start().admin().add_user("alice", "correct horse")
    engine = whole_way.start(alice, "some-org/some-model", 2048, 60)
    rows = "select container_id, port, state, generation from engines_engine"
    before = portal.database_rows(rows)
    portal.kill()
    portal.start()
    ask = {"model": "some-org/some-model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    portal.wait_for(lambda: alice.post("/v1/chat/completions", **ask).status_code == 200, 15, "the engine to answer")
    assert portal.database_rows(rows) == before, "the same process, not a new one"
    assert alice.get("/active_models/").json()[0]["container_id"] == engine["container_id"]
    assert alice.post("/vllm_request/terminate", container_id=engine["container_id"]).status_code == 200


def test_a_start_that_fails_says_why(tmp_path):
    portal = PortalProcess(
        tmp_path, launcher="simulator", simulator_args="--simulate-start-failure=kv-cache", reconcile_seconds=0.5
    )
    try:
        alice = portal.start().admin().add_user("alice", "correct horse")
        answer = alice.post("/vllm_request/start", Model="some-org/some-model", HUGGING_FACE_HUB_TOKEN="")
        assert (answer.status_code, answer.json()["status"]) == (200, "unhealthy")
        assert "MAX_MODEL_LEN 256" in answer.json()["message"]
    finally:
        portal.stop()
