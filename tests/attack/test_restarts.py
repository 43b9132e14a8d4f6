"""The whole portal ends and starts again while engines run: they are the same processes afterwards, and serve."""

import os
import random

import pytest

from tests.attack.fail_points import StandIns
from tests.journeys.portal_process import PortalProcess

ENGINES = 10
RESTARTS = int(os.environ.get("RESTARTS", "3"))
SEED = 20261123


@pytest.fixture
def portal(tmp_path):
    portal = PortalProcess(tmp_path, launcher="simulator", reconcile_seconds=0.5, engines_per_user=ENGINES)
    yield portal.start()
    portal.stop()
    portal.environment["PORTAL_STOP_ENGINES_ON_EXIT"] = "true"
    portal.start().stop()
    assert StandIns(portal).processes() == {}


def test_engines_outlive_the_portal(portal):
    alice = portal.admin().add_user("alice", "correct horse")
    engines = StandIns(portal)

    def ready() -> list[str]:
        rows = portal.database_rows("select name, state, generation from engines_engine")
        return sorted(row["name"] for row in rows if (row["state"], row["generation"]) == ("READY", 1))

    for number in range(ENGINES):
        assert alice.post("/api/v1/engines", model=f"some-org/model-{number}").status_code == 202
    portal.wait_for(lambda: len(ready()) == ENGINES, 60, "all engines")
    before = ready(), engines.processes()
    luck = random.Random(SEED)
    for _ in range(RESTARTS):
        luck.choice([portal.stop, portal.kill])()
        assert engines.processes() == before[1]
        portal.start()
        for number in range(ENGINES):
            model = f"some-org/model-{number}"
            answer = alice.post("/v1/completions", model=model, prompt="Hello", max_tokens=1)
            assert answer.status_code == 200, answer.text
    assert (ready(), engines.processes()) == before
    events = portal.database_rows("select new_state from engines_engineevent")
    assert not [event for event in events if event["new_state"] in ("UNHEALTHY", "FAILED", "STOPPING")]
