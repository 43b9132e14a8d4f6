"""The processes of one engine, and signals to them.

An engine is several processes, not all of them children of the first, and a process id on disk may by now be somebody
else's. So a process belongs to an engine if its stderr is the engine's log: all of them inherit that, nobody else has
it, and it is no guess after a reboot.
"""

import contextlib
import os
import signal
from pathlib import Path

PROC = Path("/proc")


def processes_of(log: Path) -> dict[int, int]:
    """Process id -> process group of all that have this file as their stderr; `log` without symbolic links.
    Zombies are not among them. Empty where there is no /proc."""
    names = {str(log), f"{log} (deleted)"}
    found = {}
    for entry in os.scandir(PROC) if PROC.is_dir() else ():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # it ended, or is another user's
            if os.readlink(f"{PROC}/{entry.name}/fd/2") in names:
                found[int(entry.name)] = os.getpgid(int(entry.name))
    return found


def signal_process(pid: int, which: signal.Signals) -> None:
    """Ended already is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, which)


def signal_groups(groups: set[int], which: signal.Signals) -> None:
    """To every process in these groups, so that none can fork away between the look and the signal."""
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, which)
