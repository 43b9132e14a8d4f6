"""A process of the portal dies while it makes or ends containers: one of the engine is there afterwards, or none.

The containers hold the stand-in engine, the daemon is real. `make test-real REAL_POINTS=20` dies at each step so many
times; without it every other one is taken."""

import os
import shutil
import subprocess

import pytest

from tests.attack.fail_points.life import Lives, MortalPortal
from tests.journeys.portal_process import ROOT

ROUNDS = int(os.environ.get("REAL_POINTS", "0"))
IMAGE = "vllm-portal-test-stand-in:1"
PLAIN = os.environ | {"DOCKER_BUILDKIT": "0"}  # the builder that every Docker brings along
DOCKER = "engines.launchers.docker DockerLauncher"

LAUNCH = [
    f"{DOCKER}.lacks before",
    f"{DOCKER}._create before",
    f"{DOCKER}._create after",
    f"{DOCKER}._start before",
    f"{DOCKER}._start after",
    f"{DOCKER}.start after",
]
STOP = [
    f"{DOCKER}.stop before",
    f"{DOCKER}._keep_log before",
    f"{DOCKER}._remove before",
    f"{DOCKER}._remove after",
    f"{DOCKER}.stop after",
]


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=300, env=PLAIN)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def stand_in_image(engine_image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand-in-image")
    shutil.copytree(ROOT / "engines" / "simulator", folder / "engines" / "simulator")
    (folder / "engines" / "__init__.py").touch()
    (folder / "Dockerfile").write_text(
        f"FROM {engine_image}\nWORKDIR /app\nCOPY engines engines\n"
        'ENTRYPOINT ["/opt/vllm/bin/python", "-u", "-m", "engines.simulator"]\n'
    )
    docker("build", "-q", "-t", IMAGE, str(folder))
    yield IMAGE
    docker("rmi", "-f", IMAGE)


@pytest.fixture
def portal(tmp_path, stand_in_image):
    portal = MortalPortal(
        tmp_path, launcher="docker", device="cpu", docker_image=stand_in_image, stop_engines_on_exit="true",
        stop_grace_seconds=2, reconcile_seconds=0.5, hf_cache_dir=tmp_path / "hf",
    )  # fmt: skip
    yield portal.start()
    portal.stop()


@pytest.mark.parametrize(("within", "steps"), [("launch", LAUNCH), ("stop", STOP)])
def test_one_container_or_none_and_no_other_is_touched(portal, within, steps):
    others = set(docker("ps", "-aq", "--no-trunc").split())

    def containers() -> dict[str, set[str]]:
        lines = docker("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}}").splitlines()
        return {name: {identity} for identity, name in map(str.split, lines) if identity not in others}

    alice = portal.admin().add_user("alice", "correct horse")
    lives = Lives(portal, alice, containers)
    for _ in range(ROUNDS or 1):
        for step in steps if ROUNDS else steps[1::2]:
            lives.go(step, within)
    assert lives.nothing_else_was_touched()
    assert others <= set(docker("ps", "-aq", "--no-trunc").split())
