"""Logs of engines that are gone are deleted after a while, those of living engines never."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from engines import old_logs, tasks
from engines.launchers.choice import log_dir
from engines.states import State

pytestmark = pytest.mark.django_db

NOW = datetime(2030, 6, 1, tzinfo=UTC)


@pytest.fixture
def log_of(tmp_path):
    """log_of(name, age in days): a file in the folder of logs."""

    def make(name, days, folder=tmp_path):
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / name
        log.write_text("…\n")
        at = (NOW - timedelta(days=days)).timestamp()
        os.utime(log, (at, at))
        return log

    return make


def left(folder):
    return {path.name for path in folder.iterdir()}


def test_old_logs_go_and_young_ones_and_other_files_stay(log_of, tmp_path):
    for name, days in [("a.log", 31), ("b.log", 29), ("c.part", 31), ("notes.txt", 400)]:
        log_of(name, days)
    assert old_logs.delete_older_than(tmp_path, 30, NOW) == 2
    assert left(tmp_path) == {"b.log", "notes.txt"}
    assert old_logs.delete_older_than(tmp_path, 30, NOW) == 0


@pytest.mark.parametrize(("state", "stays"), [(State.READY, True), (State.STOPPING, True), (State.FAILED, False)])
def test_the_log_of_a_living_engine_stays_however_old(log_of, tmp_path, engine_in, state, stays):
    log = log_of(f"{engine_in(state).container_name}.log", 400)
    old_logs.delete_older_than(tmp_path, 30, NOW)
    assert log.exists() == stays


def test_a_folder_that_is_not_there_is_no_harm(tmp_path):
    assert old_logs.delete_older_than(tmp_path / "nope", 30, NOW) == 0


@pytest.mark.parametrize(("days", "stays"), [(None, True), (30, False)])
def test_the_configuration_says_after_how_many_days(log_of, setting, days, stays):
    setting(engine_log_days=days)
    log = log_of("vllm-portal-000000000000-1.log", 3650, log_dir())
    os.utime(log, (0, 0))
    tasks.delete_old_logs()
    assert log.exists() == stays
    log.unlink(missing_ok=True)
