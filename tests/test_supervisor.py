"""`manage.py run` with real processes: what it says, what it refuses, what it leaves behind (nothing)."""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from tests import postgres_server
from tests.waiting import wait_until
from vllm_portal.config import PROJECT_ROOT
from vllm_portal.priority import NICENESS

WEB, WORKER = "-m vllm_portal.web", "-m celery -A vllm_portal worker"
START_S = 60  # generous: the machine may be busy with other tests
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


@pytest.fixture
def data_dir():
    """Short: the private Redis listens on a unix socket in it, and such a path has at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="portal-run-"))
    yield path
    for pid in processes_of(path):
        os.kill(pid, signal.SIGKILL)
    path.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def start(data_dir, port, tmp_path):
    """start(*flags, **environment): a portal on data_dir and port, in the foreground of a terminal of its own."""
    started = []

    def make(*flags, where=data_dir, popen=None, **environment):
        portal = Portal(where, port, tmp_path / f"said-{len(started)}", flags, environment, popen or {})
        started.append(portal)
        return portal

    yield make
    for portal in started:
        portal.process.kill()
        portal.process.communicate()


class Portal:
    def __init__(self, data_dir, port, output, flags, environment, popen):
        self.data_dir, self.port, self._output = data_dir, port, output
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        ours = {"PORTAL_CONFIG": "/dev/null", "PORTAL_DATA_DIR": str(data_dir), "PORTAL_LAUNCHER": "simulator"}
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run", "--host", "127.0.0.1", "--port", str(port), *flags],
                cwd=PROJECT_ROOT,
                env={**inherited, **ours, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **popen,
            )

    @property
    def said(self):
        return self._output.read_text()

    def wait_until_it_serves(self):
        wait_until(lambda: "Data  " in self.said or self.process.poll() is not None)
        assert self.process.poll() is None, self.said
        return self

    def log(self, name):
        return (self.data_dir / "logs" / f"{name}.log").read_text()

    def ctrl_c(self):
        """What a terminal does: SIGINT to the whole foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self):
        return self.process.wait(START_S)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return response.read()

    def pids_of(self, words):
        """The processes of this portal whose command line has the words."""
        return [pid for pid in processes_of(self.data_dir) if words in command_line(pid)]


def processes_of(data_dir):
    """Every living process of this data directory, whoever its parent is: it has it in its environment, or works in
    it (Redis, which writes its title over its environment)."""
    mark, found = f"PORTAL_DATA_DIR={data_dir}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment, cwd = (entry / "environ").read_bytes().split(b"\0"), (entry / "cwd").readlink()
        except OSError:
            continue  # it has ended, or is another user's
        if mark in environment or cwd.is_relative_to(data_dir):
            found.append(int(entry.name))
    return found


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""  # it has ended


# What it says and does


def test_it_says_in_five_lines_where_everything_is(start, port, data_dir):
    portal = start(PORTAL_ADMIN_USERNAME="chief").wait_until_it_serves()

    pages, docs, admin, engines, data = portal.said.splitlines()
    assert pages.endswith(f"http://127.0.0.1:{port}/")
    assert docs.endswith(f"http://127.0.0.1:{port}/api/docs/")
    password = re.search(r"/admin/  user chief, password (\S+) \(shown this once\)", admin)[1]
    assert "simulator" in engines
    assert "SIMULATED" in engines
    assert str(data_dir) in data
    assert json.loads(portal.get("/healthz")) == {"status": "ok"}
    assert log_in(portal, "chief", password)
    assert not any(password in log.read_text() for log in (data_dir / "logs").iterdir())


def log_in(portal, name, password):
    body = json.dumps({"username": name, "password": password}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{portal.port}/token", body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)["access_token"]


def test_ctrl_c_leaves_no_process_and_the_second_start_shows_no_password(start, data_dir):
    portal = start().wait_until_it_serves()
    wait_until(lambda: " ready" in portal.log("worker"))
    assert len(processes_of(data_dir)) == 6  # supervisor, Redis, pages, web, worker, beat

    portal.ctrl_c()
    assert portal.wait() == 0, portal.said
    assert processes_of(data_dir) == []
    assert "killed" not in portal.said
    assert "Finished server process" in portal.log("web")
    assert "Warm shutdown" in portal.log("worker")
    assert "bye bye" in portal.log("redis")

    again = start().wait_until_it_serves()
    assert "user admin\n" in again.said
    again.process.send_signal(signal.SIGTERM)
    assert again.wait() == 0, again.said
    assert processes_of(data_dir) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the watchdog does it, see below")
def test_no_process_survives_a_kill_9_of_the_supervisor(start, data_dir):
    portal = start().wait_until_it_serves()

    portal.process.kill()
    portal.wait()

    wait_until(lambda: processes_of(data_dir) == [])


def test_a_second_ctrl_c_does_not_wait_for_a_web_server_that_hangs(start, data_dir):
    portal = start().wait_until_it_serves()
    os.kill(*portal.pids_of(WEB), signal.SIGSTOP)

    portal.ctrl_c()
    wait_until(lambda: "stopping" in portal.said)
    portal.ctrl_c()

    began = time.monotonic()
    assert portal.wait() == 128 + signal.SIGINT
    assert time.monotonic() - began < 5
    wait_until(lambda: processes_of(data_dir) == [])


def test_a_process_that_dies_is_named_and_started_again(start, data_dir):
    portal = start().wait_until_it_serves()
    (worker,) = portal.pids_of(WORKER)
    (data_dir / "logs" / "worker.log").write_text("the last thing it said\n")

    os.kill(worker, signal.SIGKILL)

    wait_until(lambda: "worker ended unexpectedly (killed by SIGKILL); it starts again in 1 s" in portal.said)
    assert "the last thing it said" in portal.said
    wait_until(lambda: portal.pids_of(WORKER) not in ([], [worker]))


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="sessions have no shares of their own here")
def test_a_worker_steps_back_once_it_is_there_and_not_before(start):
    """It is missed until then, and its imports would take thrice as long where cores are busy."""
    portal = start().wait_until_it_serves()
    (worker,) = portal.pids_of(WORKER)

    def share():
        return Path(f"/proc/{worker}/autogroup").read_text().split()[-1]

    wait_until(lambda: share() == str(NICENESS))
    assert "Connected to redis" in portal.log("worker")


def test_requests_wait_while_a_web_server_that_died_starts_again(start):
    portal = start().wait_until_it_serves()

    os.kill(*portal.pids_of(WEB), signal.SIGKILL)

    assert json.loads(portal.get("/healthz")) == {"status": "ok"}


def test_it_runs_on_postgresql(start):
    with tempfile.TemporaryDirectory(prefix="portal-pg-") as directory, postgres_server.running(Path(directory)) as url:
        portal = start(PORTAL_DATABASE_URL=url, PORTAL_ADMIN_PASSWORD="correct horse").wait_until_it_serves()
        assert log_in(portal, "admin", "correct horse")
        portal.ctrl_c()
        assert portal.wait() == 0
    assert not (portal.data_dir / "portal.sqlite3").exists()


# What it refuses


@pytest.fixture
def refusal(start):
    """refusal(*flags, **environment): the one line that a portal which cannot start leaves behind."""

    def make(*flags, **environment):
        portal = start(*flags, **environment)
        code = portal.wait()
        lines = portal.said.splitlines()
        assert (code, len(lines)) == (2, 1), portal.said
        assert lines[0].startswith("portal: ")
        assert processes_of(portal.data_dir) == []
        return lines[0]

    return make


def test_a_taken_port(refusal, port):
    with socket.create_server(("127.0.0.1", port)):
        line = refusal()

    assert f"port {port} " in line
    assert "PORTAL_PORT" in line


def test_a_host_that_is_not_ours(refusal):
    assert "PORTAL_HOST" in refusal("--host", "192.0.2.1")


def test_a_second_portal_on_the_same_data(start, data_dir):
    first = start().wait_until_it_serves()

    other = start()

    assert other.wait() == 2
    assert other.said == (
        f"portal: another portal (process {first.process.pid}) runs on {data_dir}: "
        "stop it or set PORTAL_DATA_DIR to another directory\n"
    )
    assert first.process.poll() is None


def test_a_database_that_is_none(refusal, data_dir):
    (data_dir / "portal.sqlite3").write_bytes(b"half a download" * 1000)

    line = refusal()

    assert f"{data_dir}/portal.sqlite3 is damaged (file is not a database)" in line
    assert "restore a backup" in line


@pytest.mark.parametrize("overwritten", [False, True], ids=["half missing", "pages overwritten"])
def test_a_database_that_is_damaged_inside(refusal, data_dir, overwritten):
    path = data_dir / "portal.sqlite3"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 500)
    database.close()
    middle = path.stat().st_size // 2
    if overwritten:
        with path.open("r+b") as file:
            file.seek(middle)
            file.write(b"\xff" * 20_000)
    else:
        os.truncate(path, middle)

    assert f"{path} is damaged (" in refusal()


def test_a_file_where_the_data_directory_should_be(refusal, tmp_path):
    file = tmp_path / "file"
    file.write_text("")

    line = refusal(where=file)

    assert str(file) in line
    assert line.endswith((": Not a directory", ": File exists"))


def test_a_data_directory_without_the_right_to_write(refusal, data_dir):
    data_dir.chmod(0o500)

    line = refusal(popen={"preexec_fn": obey_file_modes})

    assert str(data_dir) in line
    assert line.endswith("Permission denied")


def test_a_database_without_the_right_to_write(refusal, data_dir):
    sqlite3.connect(data_dir / "portal.sqlite3").close()
    (data_dir / "portal.sqlite3").write_bytes(b"")
    (data_dir / "portal.sqlite3").chmod(0o400)

    line = refusal(popen={"preexec_fn": obey_file_modes})

    assert str(data_dir / "portal.sqlite3") in line


def obey_file_modes():
    """Root may write anywhere by a capability; this process and what it starts go without it."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
        raise OSError("cannot drop CAP_DAC_OVERRIDE")


def test_a_postgresql_that_does_not_answer(refusal):
    line = refusal(PORTAL_DATABASE_URL="postgres://someone:hunter22@127.0.0.1:1/portal")

    assert "PostgreSQL at 127.0.0.1 cannot be used" in line
    assert "PORTAL_DATABASE_URL" in line
    assert "hunter22" not in line


def test_a_redis_that_does_not_answer(refusal):
    line = refusal(PORTAL_REDIS_URL="redis://:hunter22@127.0.0.1:1/0")

    assert "PORTAL_REDIS_URL" in line
    assert "hunter22" not in line


def test_an_admin_name_that_belongs_to_a_user(refusal, data_dir):
    commands = (
        "import django; django.setup(); from django.core.management import call_command; "
        "call_command('migrate', verbosity=0); from accounts.models import User; User.objects.create_user('admin')"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "vllm_portal.settings", "PORTAL_DATA_DIR": str(data_dir)}
    subprocess.run(
        [sys.executable, "-c", commands],
        cwd=PROJECT_ROOT,
        env={**os.environ, **environment},
        check=True,
        timeout=START_S,
    )

    assert "PORTAL_ADMIN_USERNAME" in refusal()


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        (("--port", "abc"), {}, "port: "),
        (("--launcher", "magic"), {}, "launcher: "),
        ((), {"PORTAL_ENGINE_ENV": "{"}, "engine_env"),
        ((), {"PORTAL_RECONCILE_SECONDS": "0"}, "reconcile_seconds: "),
    ],
)
def test_a_wrong_setting(refusal, flags, environment, expected):
    assert expected in refusal(*flags, **environment)
