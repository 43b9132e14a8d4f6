"""Ends the supervisor's children after a kill -9 of the supervisor, where the kernel cannot be asked to (not Linux).

A process of its own reads the children's process groups from a pipe. The pipe's end means that the supervisor died.
"""

import os
import signal
import subprocess
import sys


class Watchdog:
    """The supervisor's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def add(self, group: int) -> None:
        self._say(f"+{group}\n")

    def remove(self, group: int) -> None:
        """The group's number may soon belong to somebody else."""
        self._say(f"-{group}\n")

    def dismiss(self) -> None:
        """All children have ended in an orderly way."""
        self._process.kill()
        self._process.communicate()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()


def watch() -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


if __name__ == "__main__":
    watch()
