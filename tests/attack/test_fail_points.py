"""A process of the portal dies at each step of a launch, a doze, a sleep, a fresh start, a stop and a failure: soon
exactly one engine runs or none, as the row says, and nothing else was touched. `make test-points POINTS=100` does each
so many times, and POINTS_TOOK=FILE keeps how long each took; without POINTS every other one is taken."""

import os

import pytest

from tests.attack.fail_points import StandIns
from tests.attack.fail_points.life import Lives, MortalPortal

ROUNDS = int(os.environ.get("POINTS", "0"))
ROUNDS_OF_A_PORTAL = 10
"""Few, so that portals beside each other end at about the same time."""
MOVE = "engines.lifecycle move"
PROCESS = "engines.launchers.process ProcessLauncher"
FOLDER = "engines.launchers.engine_directory EngineDirectory"

LAUNCH = [
    "engines.lifecycle place before",
    "engines.lifecycle place after",
    f"{MOVE}>starting before",
    f"{MOVE}>starting after",
    f"{PROCESS}.start before",
    f"{FOLDER}.write_meta before",
    f"{FOLDER}.write_meta after",
    f"{PROCESS}._launch after",
    f"{PROCESS}.start after",
    f"{MOVE}>loading before",
    f"{MOVE}>loading after",
    f"{PROCESS}.poll after",
    "engines.checking _became_ready before",
    f"{MOVE}>ready before",
    f"{MOVE}>ready after",
]
STOP = [
    f"{MOVE}>stopping before",
    f"{MOVE}>stopping after",
    "engines.draining again_in_s before",
    "engines.draining again_in_s after",
    "engines.ending _end before",
    f"{PROCESS}.stop before",
    f"{PROCESS}._ask_to_end before",
    f"{PROCESS}._ask_to_end after",
    f"{PROCESS}._put_away before",
    f"{FOLDER}.remove before",
    f"{FOLDER}.remove after",
    f"{PROCESS}.stop after",
    "engines.lifecycle stopped before",
    "engines.lifecycle stopped after",
]
SLEEP = [
    f"{MOVE}>asleep before",
    f"{MOVE}>asleep after",
    f"{MOVE}>queued before",
    "engines.ending _end before",
    f"{MOVE}>queued after",
]
DOZE = [
    "engines.vllm_sleep fall_asleep before",
    f"{MOVE}>waking before",
    "engines.vllm_sleep fall_asleep after",
    "engines.sleeping _fall_asleep after",
    f"{MOVE}>waking after",
    "engines.sleeping _wake_up before",
    "engines.vllm_sleep wake_up before",
    f"{MOVE}>ready before",
    "engines.vllm_sleep wake_up after",
    f"{MOVE}>ready after",
]
AFRESH = [
    "engines.ending _end before",
    "engines.lifecycle start_afresh before",
    f"{MOVE}>placed before",
    f"{PROCESS}.stop after",
    f"{MOVE}>placed after",
    "engines.lifecycle start_afresh after",
    f"{MOVE}>starting after",
]
FAILURE = [
    "engines.ending finish_failing before",
    "engines.lifecycle failed before",
    "engines.lifecycle failed after",
]


@pytest.fixture
def portal(tmp_path):
    portal = MortalPortal(
        tmp_path, launcher="simulator", stop_engines_on_exit="true", reconcile_seconds=0.5,
        simulator_args="--simulate-start-seconds=0.5", sleep_level=2, engine_restarts=0,
    )  # fmt: skip
    try:  # a run that is broken off while a portal starts leaves none behind
        yield portal.start()
    finally:
        portal.stop()
    assert StandIns(portal).processes() == {}


@pytest.mark.parametrize(
    ("within", "steps"),
    [("launch", LAUNCH), ("doze", DOZE), ("sleep", SLEEP), ("afresh", AFRESH), ("stop", STOP), ("failure", FAILURE)],
)
@pytest.mark.parametrize("first", range(0, ROUNDS or 1, ROUNDS_OF_A_PORTAL))
def test_nothing_is_left_and_nothing_else_is_touched(portal, within, steps, first):
    alice = portal.admin().add_user("alice", "correct horse")
    stand_ins = StandIns(portal)
    lives = Lives(portal, alice, stand_ins.processes)
    for _ in range(first, min(first + ROUNDS_OF_A_PORTAL, ROUNDS or 1)):
        for step in steps if ROUNDS else steps[::2]:
            lives.go(step, within)
    assert lives.nothing_else_was_touched()
    assert set(stand_ins.starts().values()) == {1}, "each was started once"
