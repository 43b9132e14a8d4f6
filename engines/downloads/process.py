"""The process that downloads one commit: started, found, ended. Any number of portal processes may do so at once.

It outlives the portal, as engines do. Its token comes by a pipe: it is in no file, no argument and no environment.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict

from engines import detached
from engines.downloads.folder import Download, Order
from engines.launchers.process import INHERITED
from engines.launchers.processes import PROC, processes_of, signal_groups, signal_process
from vllm_portal.config import PROJECT_ROOT

END_SECONDS = 5.0
LOOK_SECONDS = 0.02


def begin(download: Download, order: Order, environment: Mapping[str, str]) -> None:
    """Does nothing where it lives. Dying between any two lines leaves no process, or one that has no order and ends.
    Raises OSError."""
    detached.reap()
    download.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with download.locked() as lock:
        if lock is None:
            return
        download.write_engine(order.engine)
        download.forget_outcome(order.engine)
        with download.log.open("wb") as log:
            child = detached.spawn(
                [sys.executable, "-m", "engines.downloads"],
                PROJECT_ROOT,
                _environment(order, environment),
                log,
                lock,
                stdin=subprocess.PIPE,
            )
    assert child.stdin is not None
    with child.stdin as pipe:
        pipe.write(json.dumps(asdict(order)).encode())


def end(download: Download) -> bool:
    """True: nothing of it lives. What it has fetched stays."""
    log = download.log.resolve()
    deadline = time.monotonic() + END_SECONDS
    while download.is_locked():
        if time.monotonic() > deadline:
            return False
        # Again and again: one that is just being started is not to be seen yet.
        signal_groups(set(processes_of(log).values()), signal.SIGKILL)
        if not PROC.is_dir() and (pid := download.pid()) and download.is_locked():
            signal_process(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
    detached.reap()
    return True


def _environment(order: Order, environment: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the portal's own, which holds its secrets, and no token of whoever runs it."""
    inherited = {name: value for name, value in environment.items() if name in INHERITED or name.startswith("LC_")}
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), inherited.get("PYTHONPATH")]))
    return inherited | {
        "PYTHONPATH": path,
        "HF_HOME": order.cache,
        "HF_TOKEN_PATH": os.devnull,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "30",
    }
