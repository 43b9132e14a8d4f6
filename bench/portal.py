"""The portal under test: the only file of the benchmark that knows how a portal is started."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.programs import HERE, Usage, free_port

ROOT = HERE.parent
START_S = 60

# A user whose limits are never reached, and a READY engine at the upstream's port. Printed: the access token.
_PREPARE = """
from django.utils import timezone
from accounts.auth import issue_tokens
from accounts.models import TokenLimit, User
from engines import lifecycle
from engines.states import State
user = User.objects.create_user("bench", password=None)
limits = dict(prompt_token_limit=10**15, gen_token_limit=10**15, requests_per_minute=10**9)
TokenLimit.objects.filter(user=user).update(**limits)
now = timezone.now()
engine = lifecycle.request_start(user, now, name="bench-engine", model={model!r}, launcher="process", device="cpu")
lifecycle.place(engine, [], now)
for old, new in ((State.PLACED, State.STARTING), (State.STARTING, State.LOADING), (State.LOADING, State.READY)):
    lifecycle.move(engine, old, new, now, host="127.0.0.1", port={port}, served_max_model_len=4096)
print("token:" + issue_tokens(user)[0])
"""


class Running(NamedTuple):
    """How to reach a started portal and whom to measure.

    `token` is what a client sends as a bearer token; `model` is the name that requests give. `redis_pid` may be a
    descendant of `web_pid`; its CPU time is not counted twice.
    """

    port: int
    token: str
    model: str
    web_pid: int
    redis_pid: int


class Portal:
    """`manage.py run` in a folder of its own, with one user without token limits and one READY engine: the upstream."""

    def __init__(self, upstream_port: int, model: str) -> None:
        self.upstream_port = upstream_port
        self.model = model
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path(tempfile.mkdtemp(prefix="portal-bench-"))

    def start(self) -> Running:
        """Returns when the portal answers requests. Children inherit the core that the caller is pinned to."""
        port = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")} | {
            "PORTAL_DATA_DIR": str(self._directory),
            "PORTAL_CONFIG": str(self._directory / "none.yaml"),
            "PORTAL_HOST": "127.0.0.1",
            "PORTAL_PORT": str(port),
            "PORTAL_LAUNCHER": "simulator",
            # The reconciler would find that no process belongs to the engine, and fail it.
            "PORTAL_RECONCILE_SECONDS": "86400",
        }
        with (self._directory / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "run"], cwd=ROOT, env=environment, stdout=console, stderr=console
            )
        self._wait_until_it_answers(port)
        script = _PREPARE.format(model=self.model, port=self.upstream_port)
        command = [sys.executable, "manage.py", "shell", "--no-imports", "-c", script]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        token = done.stdout.partition("token:")[2].strip()
        if not token:
            raise OSError(f"the benchmark's engine could not be made:\n{done.stdout}{done.stderr}")
        children = psutil.Process(self._process.pid).children(recursive=True)
        web = next(child for child in children if "vllm_portal.web" in child.cmdline())
        redis = next(child for child in children if "redis" in child.name() or "valkey" in child.name())
        return Running(port, token, self.model, web.pid, redis.pid)

    def _wait_until_it_answers(self, port: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    console = (self._directory / "console.log").read_text(errors="replace")
                    raise OSError(f"the portal does not answer; it said:\n{console}") from None
                time.sleep(0.05)

    def usage_totals(self) -> Usage:
        """Sums over the ledger's records, as they are in the database now.

        Asked often, while the CPU time of the web process is being measured: must not go through that process.
        """
        database = sqlite3.connect(f"file:{self._directory}/portal.sqlite3?mode=ro", uri=True, timeout=10)
        query = "select count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(generated_tokens), 0)"
        try:
            return Usage(*database.execute(f"{query} from inference_usagerecord").fetchone())
        finally:
            database.close()

    def stop(self) -> None:
        """Leaves no process and no folder behind. Legal in every state, also before or after a failed start."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)
