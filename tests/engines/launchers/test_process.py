"""The process launcher, with real processes."""

import os
import signal
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.errors import LauncherError, StartFailed
from engines.launchers.base import LaunchSpec, Status
from engines.launchers.engine_directory import EngineDirectory, Meta
from engines.launchers.ports import PORTS, can_bind
from engines.launchers.process import ProcessLauncher, ProcessSettings
from engines.launchers.processes import processes_of
from tests.engines.launchers.contract import ENGINE_KEY, HF_TOKEN, LauncherContract, ask, ended, new_name
from tests.waiting import wait_until

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
SECRET_OF_THE_PORTAL = "of-the-portal-93f1"


class ProcessRig:
    portal_id = "this-portal"
    other_portal_id = "another-portal"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def launcher(self, portal_id: str | None = None, **settings: Any) -> ProcessLauncher:
        values = {
            "portal_id": portal_id or self.portal_id,
            "runtime_dir": self.folder / "run",
            "log_dir": self.folder / "logs",
            "command": (sys.executable, str(FAKE_ENGINE)),
            "parent_environment": {**os.environ, "PORTAL_ADMIN_PASSWORD": SECRET_OF_THE_PORTAL, "HF_TOKEN": "hf_own"},
        }
        return ProcessLauncher(ProcessSettings(**values | settings))

    def spec(self, **changes: Any) -> LaunchSpec:
        values = {"name": new_name(), "portal_id": self.portal_id, "engine_id": uuid.uuid4().hex, "generation": 1}
        return LaunchSpec(**values | {"argv": ["some/model"]} | changes)

    def directory(self, name: str) -> EngineDirectory:
        return EngineDirectory((self.folder / "run" / name).resolve())

    def processes(self, name: str) -> dict[int, int]:
        return processes_of(self.directory(name).log)

    def identity(self, name: str) -> str:
        return str(self.directory(name).pid())

    def kill(self, name: str) -> None:
        os.killpg(self.directory(name).pid(), signal.SIGKILL)

    def is_alive(self, name: str) -> bool:
        return bool(self.processes(name)) or self.directory(name).is_locked()

    def in_plain_sight(self, name: str) -> str:
        commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in self.processes(name)]
        return "\n".join([name, *commands, (self.directory(name).path / "meta.json").read_text()])


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ProcessRig]:
    rig = ProcessRig(tmp_path)
    yield rig
    for portal in (rig.portal_id, rig.other_portal_id):
        launcher = rig.launcher(portal)
        for found in launcher.list():
            launcher.stop(found.name, 0)


class TestProcessLauncher(LauncherContract):
    pass


def test_two_processes_that_start_at_once_make_one_engine(rig: ProcessRig) -> None:
    spec = rig.spec()
    program = f"""
import sys
from pathlib import Path
from engines.launchers.base import LaunchSpec
from engines.launchers.ports import PORTS, can_bind
from engines.launchers.process import ProcessLauncher, ProcessSettings
launcher = ProcessLauncher(ProcessSettings(
    portal_id="this-portal", runtime_dir=Path({str(rig.folder / "run")!r}), log_dir=Path({str(rig.folder / "logs")!r}),
    command=({sys.executable!r}, {str(FAKE_ENGINE)!r}), parent_environment={{"PATH": "/usr/bin:/bin"}}))
sys.stdin.readline()
observation = launcher.start(LaunchSpec({spec.name!r}, "this-portal", {spec.engine_id!r}, 1, ["m"]))
print(observation.status.value, observation.port)
"""
    starters = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for starter in starters:
        starter.stdin.write("go\n")
        starter.stdin.flush()
    answers = [starter.communicate(timeout=60)[0] for starter in starters]
    assert len(set(answers)) == 1
    assert answers[0].startswith("running ")
    assert rig.launcher().poll(spec.name).status is Status.RUNNING, "it outlives all who started it"
    assert len(set(rig.processes(spec.name).values())) == 1


def test_an_engine_has_only_the_listed_part_of_the_portals_environment(rig: ProcessRig) -> None:
    launcher = rig.launcher(environment={"HF_HOME": "/somewhere"})
    seen = ask(launcher.start(rig.spec(env={"VLLM_NO_USAGE_STATS": "1"})))["environment"]
    assert SECRET_OF_THE_PORTAL not in seen.values()
    assert "DJANGO_SETTINGS_MODULE" not in seen
    assert seen["PATH"] == os.environ["PATH"]
    assert seen["HF_HOME"] == "/somewhere"
    assert seen["VLLM_NO_USAGE_STATS"] == "1"


def test_secrets_on_disk_are_the_users_alone_and_go_with_the_engine(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(), rig.spec(hf_token=HF_TOKEN, engine_key=ENGINE_KEY)
    ask(launcher.start(spec))
    token = rig.directory(spec.name).token
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    with_token = [path for path in rig.folder.rglob("*") if path.is_file() and HF_TOKEN in path.read_text()]
    assert with_token == [token]
    assert not [path for path in rig.folder.rglob("*") if path.is_file() and ENGINE_KEY in path.read_text()]
    launcher.stop(spec.name, 5)
    assert not [path for path in rig.folder.rglob("*") if path.is_file() and HF_TOKEN in path.read_text()]


def test_the_token_of_a_crashed_engine_is_gone_before_anybody_stops_it(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(), rig.spec(hf_token=HF_TOKEN, env={"FAKE_EXIT": "1"})
    launcher.start(spec)
    ended(launcher, spec.name)
    wait_until(lambda: not rig.directory(spec.name).token.exists(), "no token")


def test_killing_the_shell_alone_leaves_an_engine_that_runs_and_can_be_stopped(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(), rig.spec()
    observation = launcher.start(spec)
    ask(observation)
    os.kill(rig.directory(spec.name).pid(), signal.SIGKILL)
    main = ask(observation)["pid"]
    wait_until(lambda: list(rig.processes(spec.name)) == [main], "the engine without its shell")
    assert launcher.poll(spec.name) == observation
    assert launcher.start(spec) == observation
    launcher.stop(spec.name, 5)
    assert not rig.is_alive(spec.name)


def test_an_engine_that_dies_without_its_shell_is_ended_with_no_code(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(), rig.spec()
    main = ask(launcher.start(spec))["pid"]
    os.kill(rig.directory(spec.name).pid(), signal.SIGKILL)
    os.kill(main, signal.SIGKILL)
    observation = ended(launcher, spec.name)
    assert observation.exit_code is None
    assert observation.message


def test_a_start_of_what_has_ended_starts_nothing(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(), rig.spec(env={"FAKE_EXIT": "1"})
    launcher.start(spec)
    ended(launcher, spec.name)
    wait_until(lambda: not rig.is_alive(spec.name), "its lock is free")
    before = rig.directory(spec.name).meta()
    assert launcher.start(spec).status is Status.EXITED
    assert rig.directory(spec.name).meta() == before, "a start would have chosen another port"


def test_a_crash_of_the_first_process_takes_its_workers_along(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(), rig.spec(env={"FAKE_WORKER": "1"})
    main = ask(launcher.start(spec))["pid"]
    assert len(rig.processes(spec.name)) == 3
    os.kill(main, signal.SIGKILL)
    assert ended(launcher, spec.name).exit_code == 137
    wait_until(lambda: not rig.is_alive(spec.name), "nothing lives")


def test_a_worker_that_lost_parent_shell_and_lock_is_killed_by_stop(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(), rig.spec(env={"FAKE_WORKER": "1"})
    main = ask(launcher.start(spec))["pid"]
    os.kill(rig.directory(spec.name).pid(), signal.SIGKILL)
    os.kill(main, signal.SIGKILL)
    ended(launcher, spec.name)
    assert len(rig.processes(spec.name)) == 1
    launcher.stop(spec.name, 5)
    assert not rig.is_alive(spec.name)


def test_stop_signals_the_first_process_and_not_its_workers(rig: ProcessRig) -> None:
    """As in a container. vLLM's own workers would die under the requests that it still answers."""
    launcher, spec = rig.launcher(), rig.spec(env={"FAKE_IGNORE_TERM": "1", "FAKE_WORKER": "1"})
    main = ask(launcher.start(spec))["pid"]
    directory = rig.directory(spec.name)
    os.kill(directory.pid(), signal.SIGTERM)
    worker = next(pid for pid in rig.processes(spec.name) if pid not in (main, directory.pid()))
    ask(launcher.poll(spec.name))
    assert worker in rig.processes(spec.name)
    assert launcher.poll(spec.name).status is Status.RUNNING


def test_a_reused_process_id_is_not_taken_for_the_engine(rig: ProcessRig) -> None:
    """A machine that was restarted: the directory names a pid which is now somebody else's, here this test's own
    bystander, in a group of its own."""
    launcher, spec = rig.launcher(), rig.spec()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as bystander:
        directory = rig.directory(spec.name)
        directory.path.mkdir(parents=True)
        directory.write_meta(Meta(rig.portal_id, spec.engine_id, 1, "127.0.0.1", 20_001))
        (directory.path / "pid").write_text(str(bystander.pid))
        directory.log.write_text("an old log\n")
        assert launcher.poll(spec.name).status is Status.EXITED
        launcher.stop(spec.name, 0)
        assert bystander.poll() is None
        bystander.kill()
    assert launcher.logs(spec.name) == "an old log\n"


def test_what_a_starter_left_that_died_before_the_child_is_no_engine(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(), rig.spec()
    directory = rig.directory(spec.name)
    directory.path.mkdir(parents=True)
    (directory.path / "lock").touch()
    assert launcher.poll(spec.name).status is Status.GONE
    directory.write_meta(Meta(rig.portal_id, spec.engine_id, 1, "127.0.0.1", 20_001))
    assert launcher.poll(spec.name).status is Status.GONE
    assert [found.status for found in launcher.list()] == [Status.GONE]
    assert launcher.start(spec).status is Status.RUNNING


def test_while_another_starter_is_at_it_nobody_can_tell(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(), rig.spec()
    directory = rig.directory(spec.name)
    directory.path.mkdir(parents=True)
    with directory.locked() as lock:
        assert lock is not None
        assert launcher.poll(spec.name).status is Status.UNKNOWN
        with pytest.raises(LauncherError, match="still lives"):
            launcher.stop(spec.name, -10)
    assert launcher.poll(spec.name).status is Status.GONE


def free_ports(count: int) -> range:
    """That many neighbours that nobody has."""
    for first in range(PORTS.start + os.getpid() % 1000 * 10, PORTS.stop - count, count):
        if all(can_bind("127.0.0.1", port) for port in range(first, first + count)):
            return range(first, first + count)
    raise AssertionError("no free ports")


def test_no_port_is_given_twice_and_none_that_somebody_listens_on(rig: ProcessRig, monkeypatch: Any) -> None:
    ports = free_ports(6)
    monkeypatch.setattr("engines.launchers.ports.PORTS", ports)
    launcher = rig.launcher(command=("sh", "-c", "sleep 60"))  # never listens, as vLLM in its first minute
    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        busy.bind(("127.0.0.1", ports[2]))
        busy.listen()
        given = [launcher.start(rig.spec()).port for _ in range(5)]
        assert sorted([*given, ports[2]]) == list(ports)
        with pytest.raises(LauncherError, match="no port"):
            launcher.start(rig.spec())


def test_without_the_command_the_start_fails_with_that_as_its_cause(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(command=("vllm-is-not-here", "serve")), rig.spec()
    for call in (lambda: launcher.prepare(spec, print), lambda: launcher.start(spec)):
        with pytest.raises(StartFailed) as caught:
            call()
        assert caught.value.code == "vllm_missing"
        assert "vllm-is-not-here" in str(caught.value)
    assert launcher.poll(spec.name).status is Status.GONE


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a\0b"])
def test_a_name_is_never_a_path(rig: ProcessRig, name: str) -> None:
    launcher = rig.launcher()
    with pytest.raises(LauncherError):
        launcher.start(rig.spec(name=name))
    with pytest.raises(LauncherError):
        launcher.stop(name, 1)
    assert launcher.poll(name).status is Status.UNKNOWN
    assert launcher.logs(name) == ""


def test_a_folder_that_cannot_be_written_is_a_launcher_error(rig: ProcessRig) -> None:
    (rig.folder / "run").write_text("a file where the folder should be")
    with pytest.raises(LauncherError):
        rig.launcher().start(rig.spec())
    assert rig.launcher().list() == []


def test_ended_engines_leave_no_zombies(rig: ProcessRig) -> None:
    launcher, spec = rig.launcher(), rig.spec()
    launcher.start(spec)
    shell = rig.directory(spec.name).pid()
    launcher.stop(spec.name, 5)

    def reaped() -> bool:
        launcher.poll(spec.name)
        return not Path(f"/proc/{shell}").exists()

    wait_until(reaped, "the shell is reaped")


def test_arguments_of_the_configuration_come_last(rig: ProcessRig) -> None:
    launcher = rig.launcher(extra_args=("--simulate-start-seconds=0",))
    argv = ask(launcher.start(rig.spec()))["argv"]
    assert argv[0] == "some/model"
    assert argv[-1] == "--simulate-start-seconds=0"


def test_gpus_are_named_by_number_where_the_driver_knows_them(rig: ProcessRig, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho '0, GPU-aaaa'\necho '1, GPU-bbbb'\n")
    (folder / "nvidia-smi").chmod(0o755)
    launcher = rig.launcher(parent_environment={"PATH": f"{folder}:{os.environ['PATH']}"})
    known = ask(launcher.start(rig.spec(device="cuda", gpu_uuids=("GPU-bbbb", "GPU-aaaa"))))["environment"]
    assert (known["CUDA_VISIBLE_DEVICES"], known["CUDA_DEVICE_ORDER"]) == ("1,0", "PCI_BUS_ID")
    unknown = ask(launcher.start(rig.spec(device="cuda", gpu_uuids=("GPU-cccc",))))["environment"]
    assert unknown["CUDA_VISIBLE_DEVICES"] == "GPU-cccc"
    rocm = ask(launcher.start(rig.spec(device="rocm", gpu_uuids=("GPU-dddd",))))["environment"]
    assert rocm["ROCR_VISIBLE_DEVICES"] == "GPU-dddd"
