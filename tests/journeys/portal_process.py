"""A whole portal, as `make run` starts it, in a folder of its own: what a user sees, from outside."""

import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import requests

from engines.launchers.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
ADMIN_PASSWORD = "a password for the admin"


class PortalProcess:
    """`manage.py run` with data in `directory`. `settings` are PORTAL_… without the prefix."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.directory = directory
        self.port = free_port(taken=())
        self.url = f"http://127.0.0.1:{self.port}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        fixed = {
            "CONFIG": directory / "none.yaml",
            "DATA_DIR": directory / "data",
            "HOST": "127.0.0.1",
            "PORT": self.port,
            "ADMIN_PASSWORD": ADMIN_PASSWORD,
            "HF_CHECK": "false",
            "HF_CACHE_DIR": directory / "hf",
        }
        named = {f"PORTAL_{name.upper()}": str(value) for name, value in {**fixed, **settings}.items()}
        self.environment = {**kept, **named, "PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> "PortalProcess":
        """Returns when the portal answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "run"], cwd=ROOT, env=self.environment, stdout=console, stderr=console
            )
        self.wait_for(self.answers, 60, "the portal to answer")
        return self

    def answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.console()
        try:
            return requests.get(self.url + "/healthz", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def wait_for(self, claim, timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not claim():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}\n{self.console()}"
            time.sleep(0.05)

    def console(self) -> str:
        """What the portal has said, for a failure's message: the console and the ends of the logs."""
        files = [self.directory / "console.log", *sorted((self.directory / "data" / "logs").glob("*.log"))]
        texts = [f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files if file.exists()]
        return "\n".join(texts)

    def kill(self) -> None:
        """As a power cut would: the supervisor and its children are gone at once; engines are not."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        self.wait_for(lambda: not self._answers_at_all(), 10, "the web server's end")

    def _answers_at_all(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def audit(self) -> str:
        """What `manage.py audit` says."""
        command = [sys.executable, "manage.py", "audit"]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120)
        return done.stdout + done.stderr

    def log_in(self, username: str, password: str) -> "Session":
        answer = requests.post(self.url + "/token", data={"username": username, "password": password}, timeout=10)
        assert answer.status_code == 200, answer.text
        return Session(self, username, answer.json()["access_token"])

    def admin(self) -> "Session":
        return self.log_in("admin", ADMIN_PASSWORD)

    def database_rows(self, query: str, *values: object) -> list[dict]:
        """Runs a query on the portal's SQLite database, read-only."""
        with closing(self._database("ro")) as database:
            return [dict(row) for row in database.execute(query, values)]

    def change_rows(self, statement: str, *values: object) -> None:
        """Behind the portal's back: what it would take days to come to."""
        with closing(self._database("rw")) as database, database:
            database.execute(statement, values)

    def _database(self, mode: str) -> sqlite3.Connection:
        database = sqlite3.connect(f"file:{self.directory}/data/portal.sqlite3?mode={mode}", uri=True, timeout=10)
        database.row_factory = sqlite3.Row
        return database


class Session:
    """A person who has logged in."""

    def __init__(self, portal: PortalProcess, username: str, token: str) -> None:
        self.portal = portal
        self.username = username
        self.token = token
        self.headers = {"Authorization": f"Bearer {token}"}

    def post(self, path: str, timeout: float = 600, **body: object) -> requests.Response:
        return requests.post(self.portal.url + path, json=body, headers=self.headers, timeout=timeout)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.portal.url + path, headers=self.headers, timeout=60)

    def add_user(self, username: str, password: str, **limits: int) -> "Session":
        answer = self.post("/db_request/add_user/", username=username, password=password, **limits)
        assert answer.status_code in (200, 201), answer.text
        return self.portal.log_in(username, password)

    def spent(self) -> tuple[int, int]:
        """(prompt, generated) tokens, as the portal tells the user."""
        info = self.post("/db_request/get_token_info/").json()
        return info["prompt_token_number"], info["gen_token_number"]


def counters(metrics: str) -> tuple[int, int]:
    """(prompt, generated) tokens of an engine since its start, from its /metrics."""
    totals = [
        sum(float(value) for value in re.findall(rf"^vllm:{name}_tokens_total{{[^}}]*}} (\S+)$", metrics, re.MULTILINE))
        for name in ("prompt", "generation")
    ]
    return int(totals[0]), int(totals[1])
