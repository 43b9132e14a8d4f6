"""The portal under test: the only file of the benchmark that knows how a portal is started."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime
from pathlib import Path

import psutil

from bench.gateway import Gateway, Keys
from bench.programs import HERE, Usage
from engines.launchers.ports import free_port

ROOT = HERE.parent
START_S = 60

_POPULATE = """
from pathlib import Path
from bench import population
population.add_people(Path({keys!r}))
population.add_engine({model!r}, {port})
"""


class Portal:
    """`manage.py run` in a folder of its own, with users, a key each, and one READY engine: the upstream."""

    def __init__(self, upstream_port: int, model: str, keys: Keys) -> None:
        self.upstream_port = upstream_port
        self.model = model
        self.keys = keys
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path(tempfile.mkdtemp(prefix="portal-bench-"))

    def start(self) -> Gateway:
        """Returns when the portal answers requests. Children inherit the core that the caller is pinned to."""
        port = free_port(taken=())
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")} | {
            "PORTAL_DATA_DIR": str(self._directory),
            "PORTAL_CONFIG": str(self._directory / "none.yaml"),
            "PORTAL_HOST": "127.0.0.1",
            "PORTAL_PORT": str(port),
            "PORTAL_LAUNCHER": "simulator",
            # The reconciler would find that no process belongs to the engine, and fail it.
            "PORTAL_RECONCILE_SECONDS": "86400",
            "DJANGO_SETTINGS_MODULE": "bench.settings",
        }
        with (self._directory / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "run"], cwd=ROOT, env=environment, stdout=console, stderr=console
            )
        self._wait_for(f"http://127.0.0.1:{port}/healthz", "")
        script = _POPULATE.format(keys=str(self.keys.known), model=self.model, port=self.upstream_port)
        command = [sys.executable, "manage.py", "shell", "--no-imports", "-c", script]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise OSError(f"the benchmark's users and engine could not be made:\n{done.stdout}{done.stderr}")
        self._wait_for(f"http://127.0.0.1:{port}/v1/models", f'"id":"{self.model}"')
        web, redis = hot_path(self._process.pid)
        parts = {"web": lambda: web, "redis": lambda: redis}
        return Gateway("portal", port, self.keys.used, parts, self.usage_totals, self.looked_up_since)

    def _wait_for(self, url: str, text: str) -> None:
        """Until there is an answer with this text in it."""
        assert self._process is not None
        key = self.keys.used.read_text().split()[0]
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
        deadline = time.monotonic() + START_S
        said = ""
        while text not in said or not said:
            if self._process.poll() is not None or time.monotonic() > deadline:
                console = (self._directory / "console.log").read_text(errors="replace")
                raise OSError(f"{url} does not answer as expected: {said}\nThe portal said:\n{console}")
            time.sleep(0.05)
            try:
                with urllib.request.urlopen(request, timeout=2) as answer:
                    said = answer.read().decode()
            except OSError:
                said = ""

    def usage_totals(self) -> Usage:
        """Sums over the ledger's records, as they are in the database now."""
        query = "select count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(generated_tokens), 0)"
        return Usage(*self._read(f"{query} from inference_usagerecord"))

    def looked_up_since(self, when: datetime) -> int:
        """Keys that the web process has found in the database since then, and not in its memory: it notes their use
        as it does so."""
        query = "select count(*) from accounts_apikey where last_used_at >= ?"
        return self._read(query, when.strftime("%Y-%m-%d %H:%M:%S.%f"))[0]

    def _read(self, query: str, *values: str) -> tuple[int, ...]:
        """The only row. Not through the web process, whose CPU time is being measured."""
        database = sqlite3.connect(f"file:{self._directory}/portal.sqlite3?mode=ro", uri=True, timeout=10)
        try:
            return database.execute(query, values).fetchone()
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


def hot_path(supervisor_pid: int) -> tuple[list[int], list[int]]:
    """(pids that a request passes through, pids of Redis) among what `manage.py run` has started."""
    children = psutil.Process(supervisor_pid).children(recursive=True)
    web = [child.pid for child in children if "vllm_portal.web" in child.cmdline()]
    redis = [child.pid for child in children if "redis" in child.name() or "valkey" in child.name()]
    if not web or not redis:
        raise OSError("found no web process and Redis among the portal's processes")
    return web, redis
