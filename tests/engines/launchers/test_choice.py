"""Which launcher a portal has, and what importing it costs."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from engines.errors import LauncherError
from engines.launchers import choice
from engines.launchers.base import LaunchSpec, Observation
from tests.engines.launchers.contract import new_name
from tests.waiting import wait_until
from vllm_portal.config import PROJECT_ROOT
from vllm_portal.secret_keys import portal_id


def run(program: str, **environment: str) -> str:
    """The program's output in a process of its own: settings are read once in each."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PORTAL_DATA_DIR")}
    return subprocess.run(
        [sys.executable, "-c", program], env=kept | {"PORTAL_CONFIG": "/nonexistent"} | environment,
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=True,
    ).stdout.strip()  # fmt: skip


def is_healthy(observation: Observation) -> bool:
    try:
        with urllib.request.urlopen(f"http://{observation.host}:{observation.port}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


CHOSEN = "from engines.launchers.choice import chosen_name; print(chosen_name())"


@pytest.mark.parametrize("name", ["docker", "process", "simulator"])
def test_what_the_configuration_says_is_not_doubted(name: str) -> None:
    assert run(CHOSEN, PORTAL_LAUNCHER=name, DOCKER_HOST="unix:///nonexistent") == name


def test_without_docker_vllm_is_run_as_a_process_where_it_is_installed(tmp_path: Path) -> None:
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    nowhere = {"PORTAL_LAUNCHER": "auto", "DOCKER_HOST": "unix:///nonexistent"}
    assert run(CHOSEN, **nowhere, PATH=f"{tmp_path}:{os.environ['PATH']}") == "process"
    assert run(CHOSEN, **nowhere, PORTAL_VLLM_EXECUTABLE="vllm-is-not-here") == "simulator"


def test_a_launcher_has_the_name_it_is_asked_for_by_and_there_is_one_in_a_process() -> None:
    for name in ("docker", "process", "simulator"):
        assert choice.launcher(name).name == name
        assert choice.launcher(name) is choice.launcher(name)


def test_the_stand_in_engine_comes_up_and_goes() -> None:
    launcher = choice.launcher("simulator")
    argv = ["some/model", "--served-model-name", "some/model", "--simulate-start-seconds=0"]
    spec = LaunchSpec(new_name(), portal_id(), "e1", 1, argv, engine_key="k")
    launcher.prepare(spec, print)
    observation = launcher.start(spec)
    try:
        wait_until(lambda: is_healthy(observation), "a healthy engine")
        assert launcher.poll(spec.name) == observation
        assert [found.name for found in launcher.list()] == [spec.name]
        assert choice.launcher("process").list() == [], "one launcher's engines are not another's"
    finally:
        launcher.stop(spec.name, 5)
    assert "Application startup complete" in launcher.logs(spec.name)


def test_a_name_that_nobody_knows_is_an_error_of_the_operator() -> None:
    with pytest.raises(LauncherError):
        choice.launcher("swarm")


def test_choosing_does_not_import_the_docker_sdk() -> None:
    program = (
        "import sys; from engines.launchers.choice import launcher; launcher('simulator');"
        "print([name for name in ('docker', 'requests', 'engines.launchers.docker') if name in sys.modules])"
    )
    assert run(program) == "[]"
