"""One child process of the supervisor: how it is started, watched and stopped.

A child has a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone, and dies with the
supervisor, whatever ends that: the kernel sees to it on Linux, elsewhere the watchdog of `vllm_portal.watchdog`.
"""

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_portal.errors import OperatorError
from vllm_portal.watchdog import Watchdog

logger = logging.getLogger(__name__)

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1

LONGEST_PAUSE_S = 30
STEADY_AFTER_S = 60  # a child that ran this long begins again at once: what ended it need not end the next one
LOG_BYTES = 20 * 2**20


class Child:
    """`spawn` starts the process: subprocess.Popen's own keywords come as arguments. Not for use by several threads:
    on Linux the child ends with the thread that started it."""

    def __init__(self, name: str, spawn: Callable[..., "subprocess.Popen[bytes]"], log: Path, grace_s: float) -> None:
        self.name, self.log, self.grace_s = name, log, grace_s
        self._spawn = spawn
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started = self._due = 0.0

    def start(self, watchdog: Watchdog | None) -> None:
        """Raises OperatorError where the process cannot be started at all."""
        cap(self.log)
        supervisor = os.getpid()
        with self.log.open("ab") as log:
            try:
                self._process = self._spawn(
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=(lambda: _die_with(supervisor)) if _LIBC else None,
                )
            except OSError as error:
                raise OperatorError(f"{self.name} cannot be started: {error}") from None
        self._started = time.monotonic()
        if watchdog:
            watchdog.add(self._process.pid)

    def keep_alive(self, watchdog: Watchdog | None) -> None:
        """Notices an unexpected end, says so, and starts again: one that ran for a while at once, another after a
        pause of 1, 2, 4, … 30 s."""
        if self._process is None:
            if time.monotonic() >= self._due:
                self._restart(watchdog)
        elif (code := self._process.poll()) is not None:
            if watchdog:
                watchdog.remove(self._process.pid)
            self._process = None
            steady = time.monotonic() - self._started > STEADY_AFTER_S
            self._postpone(f"{self.name} ended unexpectedly ({_describe(code)})", at_once=steady)

    def _restart(self, watchdog: Watchdog | None) -> None:
        try:
            self.start(watchdog)
        except OperatorError as error:
            self._postpone(str(error))

    def _postpone(self, what: str, *, at_once: bool = False) -> None:
        self._failures = 0 if at_once else self._failures + 1
        pause = min(2 ** (self._failures - 1), LONGEST_PAUSE_S) if self._failures else 0
        self._due = time.monotonic() + pause
        logger.warning("%s; it starts again in %d s. End of %s:\n%s", what, pause, self.log, last_lines(self.log))

    @property
    def due_in_s(self) -> float | None:
        """Seconds until a child that ended is to be started; None while it runs."""
        return None if self._process else max(self._due - time.monotonic(), 0)

    def tell(self, what: signal.Signals) -> None:
        """Sends it a signal that does not end it. Does nothing where none runs."""
        if self._process is not None:
            self._process.send_signal(what)

    def stop(self) -> None:
        """Asks the process to end, and ends it after `grace_s`. Does nothing where none runs."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(self.grace_s)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not stop within %g s and was killed", self.name, self.grace_s)
        self.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """Ends what runs of it, at once, with all that it started in its session. Safe in a signal handler."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return


def _die_with(supervisor: int) -> None:
    """Runs in the child between fork and exec."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:  # it died before the call above
        os._exit(1)


def _describe(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def cap(log: Path, limit: int = LOG_BYTES) -> None:
    """Moves the content of a large log to `<log>.1`. Its writers keep writing to `log`: each of them appends, so
    that the file may be emptied under them (a line written in this instant may be lost)."""
    if log.exists() and log.stat().st_size > limit:
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)


def last_lines(log: Path, lines: int = 5) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
            return "\n".join("  " + line for line in file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"  (unreadable: {error.strerror})"


def python(*arguments: str, cwd: Path, environment: dict[str, str]) -> Callable[..., "subprocess.Popen[bytes]"]:
    """What starts this interpreter with the arguments."""

    def spawn(**popen: Any) -> "subprocess.Popen[bytes]":
        command = [sys.executable, *arguments]
        return subprocess.Popen(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, **popen)

    return spawn
