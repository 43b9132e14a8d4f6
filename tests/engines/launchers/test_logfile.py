"""Logs: both ends, bounded, kept."""

from pathlib import Path

import pytest

from engines.launchers import logfile

LINES = b"".join(b"line %05d\n" % number for number in range(10_000))  # 110,000 bytes


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "engine.log"
    path.write_bytes(LINES)
    return path


def test_a_short_log_is_whole(log: Path) -> None:
    assert logfile.read_ends(log, len(LINES)) == LINES


def test_a_long_one_has_its_two_ends_in_whole_lines(log: Path) -> None:
    lines = logfile.read_ends(log, 1000).decode().splitlines()
    assert lines[0] == "line 00000"
    assert lines[-1] == "line 09999"
    assert [line for line in lines if len(line) != 10] == ["[… the middle of this log is left out …]"]
    assert 80 < len(lines) <= 92


def test_a_log_of_one_endless_line_is_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a" * 5000 + b"b" * 5000)
    text = logfile.read_ends(path, 100).decode()
    assert text.startswith("a" * 50 + "\n")
    assert text.endswith("b" * 50)


def test_bytes_that_are_no_text_do_not_fail() -> None:
    assert logfile.as_text(b"ok \xff\xfe \xe2\x80") == "ok \ufffd\ufffd \ufffd"


def test_a_growing_log_is_bounded_and_its_writer_writes_on(log: Path) -> None:
    with log.open("ab", buffering=0) as writer:
        logfile.bound(log, 200_000)
        assert log.read_bytes() == LINES
        logfile.bound(log, 100_000)
        writer.write(b"the next line\n")
    lines = log.read_text().splitlines()
    assert log.stat().st_size < 26_000
    assert (lines[0], lines[-2], lines[-1]) == ("line 00000", "line 09999", "the next line")


def test_keeping_moves_a_bounded_log_and_may_be_repeated(log: Path, tmp_path: Path) -> None:
    kept = tmp_path / "logs" / "x.log"
    logfile.keep(log, kept, 10_000)
    logfile.keep(log, kept, 10_000)
    assert not log.exists()
    assert kept.stat().st_size < 10_000
    assert kept.read_text().endswith("line 09999\n")


def test_no_log_is_fine(tmp_path: Path) -> None:
    logfile.bound(tmp_path / "none", 10)
    logfile.keep(tmp_path / "none", tmp_path / "kept", 10)
    assert not (tmp_path / "kept").exists()
