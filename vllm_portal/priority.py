"""What steps back where cores are few: answers go first, records and sums a moment later. On Linux; elsewhere nothing.

Linux shares a core among sessions first (autogroup, outside of containers and services), then by niceness among the
threads of one. So both are set: the session's share by whoever leads it, a thread's niceness by itself. Not a whole
process': the worker's other threads start engines, which would inherit it."""

import contextlib
import os
import sys
import threading
from pathlib import Path

NICENESS = 5  # a third of the share of what has 0


def session_steps_back() -> None:
    """Only where this process leads it: who else is in another's is not to be held up."""
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # no autogroup here
            Path("/proc/self/autogroup").write_text(str(NICENESS))


def thread_steps_back() -> None:
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
