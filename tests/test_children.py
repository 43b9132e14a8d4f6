"""One child of the supervisor, and the watchdog where the kernel is none."""

import signal
import subprocess
import sys

import pytest

from tests.waiting import wait_until
from vllm_portal.children import Child, cap, last_lines
from vllm_portal.errors import OperatorError
from vllm_portal.watchdog import Watchdog


def exits_with(code):
    return lambda **popen: subprocess.Popen([sys.executable, "-c", f"print('bye'); raise SystemExit({code})"], **popen)


def sleeps(**popen):
    return subprocess.Popen(["sleep", "600"], **popen)


def test_each_pause_before_a_new_start_is_twice_as_long_up_to_a_limit(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("vllm_portal.children.LONGEST_PAUSE_S", 0.05)
    child = Child("web", exits_with(3), tmp_path / "web.log", grace_s=1)
    child.start(None)

    wait_until(lambda: child.keep_alive(None) or len(caplog.records) >= 3)

    pauses = [record.args[1] for record in caplog.records]
    assert pauses == [0.05, 0.05, 0.05]
    assert "web ended unexpectedly (exit code 3)" in caplog.text
    assert "  bye" in caplog.text
    child.stop()


def test_pauses_double(tmp_path, caplog):
    child = Child("web", exits_with(3), tmp_path / "web.log", grace_s=1)

    for _ in range(7):
        child._postpone("it failed")

    assert [record.args[1] for record in caplog.records] == [1, 2, 4, 8, 16, 30, 30]


def test_a_child_that_ran_for_a_while_is_started_again_at_once_and_then_with_pauses(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("vllm_portal.children.STEADY_AFTER_S", -1)
    child = Child("web", exits_with(3), tmp_path / "web.log", grace_s=1)
    child.start(None)
    wait_until(lambda: child.keep_alive(None) or caplog.records)
    monkeypatch.undo()

    wait_until(lambda: child.keep_alive(None) or len(caplog.records) >= 2)

    assert [record.args[1] for record in caplog.records] == [0, 1]
    child.stop()


def test_a_child_that_ignores_the_request_to_stop_is_killed(tmp_path, caplog):
    def stubborn(**popen):
        code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
        return subprocess.Popen([sys.executable, "-c", code], **popen)

    child = Child("worker", stubborn, tmp_path / "log", grace_s=0.1)
    child.start(None)
    wait_until(lambda: "deaf" in last_lines(tmp_path / "log"))

    child.stop()

    assert "did not stop within 0.1 s" in caplog.text
    assert child.due_in_s is not None


def test_a_child_that_cannot_be_started_says_so(tmp_path):
    child = Child("worker", lambda **popen: subprocess.Popen(["/nowhere/at/all"], **popen), tmp_path / "log", grace_s=1)

    with pytest.raises(OperatorError, match="worker cannot be started"):
        child.start(None)


def test_a_large_log_is_moved_aside_and_its_writer_goes_on(tmp_path):
    log = tmp_path / "web.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 100)
        cap(log, limit=100)
        writer.write(b"new\n")

    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "web.log.1").read_bytes() == b"old\n" * 100


def test_the_watchdog_ends_what_is_left_and_nothing_else():
    watchdog = Watchdog()
    left, ended = sleeps(start_new_session=True), sleeps(start_new_session=True)
    watchdog.add(left.pid)
    watchdog.add(ended.pid)
    watchdog.remove(ended.pid)

    watchdog._process.stdin.close()  # what the kernel does when the supervisor dies

    assert left.wait(10) == -signal.SIGKILL
    assert watchdog._process.wait(10) == 0
    assert ended.poll() is None
    ended.kill()
    ended.wait()
