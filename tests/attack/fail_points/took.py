"""How long it took until all was well again after each death: noted in a file, and told at the end of a run, in
whichever processes its tests ran. A conftest.py that imports the two hooks has that."""

import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

FILE = "POINTS_TOOK"
"""The variable that names the file, for whoever wants to keep it. A run adds to it."""


def pytest_configure(config: pytest.Config) -> None:
    """The processes that pytest-xdist starts inherit the variable."""
    if FILE not in os.environ:
        handle, os.environ[FILE] = tempfile.mkstemp(prefix="points-took-")
        os.close(handle)
        config.add_cleanup(Path(os.environ[FILE]).unlink)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    file = Path(os.environ[FILE])
    if lines := summary(file) if file.exists() else []:
        terminalreporter.section("seconds until all was well")
        terminalreporter.write_line("\n".join(lines))


def note(within: str, step: str, seconds: float) -> None:
    """Several processes may write at once: each line is one write."""
    line = json.dumps({"within": within, "step": step, "seconds": round(seconds, 2)}) + "\n"
    with open(os.environ[FILE], "ab", buffering=0) as file:
        file.write(line.encode())


def summary(file: Path) -> list[str]:
    """Lines for people: each step, then all of them."""
    took: defaultdict[str, list[float]] = defaultdict(list)
    for line in file.read_text().splitlines():
        death = json.loads(line)
        took[f"{death['within']}: {death['step']}"].append(death["seconds"])
    if not took:
        return []
    everything = [seconds for all_of_one in took.values() for seconds in all_of_one]
    return [*(f"{_figures(all_of_one)}  {step}" for step, all_of_one in took.items()), f"{_figures(everything)}  all"]


def _figures(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    shares = {f"p{share}": ordered[min(len(ordered) * share // 100, len(ordered) - 1)] for share in (50, 90, 99)}
    named = {**shares, "max": ordered[-1]}
    return f"{len(ordered):5} deaths  " + "  ".join(f"{name} {value:5.2f} s" for name, value in named.items())
