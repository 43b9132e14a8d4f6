"""A process of the portal dies while it makes or ends containers: one of the engine is there afterwards, or none.

The containers hold the stand-in engine, the daemon is real. `make test-real REAL_POINTS=20` dies at each step so many
times; without it every other one is taken."""

import os
import shutil

import pytest

from engines.launchers.container_config import LABEL_ENGINE, LABEL_PORTAL
from tests.attack.fail_points.life import Lives, MortalPortal
from tests.journeys.portal_process import ROOT
from tests.real.docker_rig import build, docker

ROUNDS = int(os.environ.get("REAL_POINTS", "0"))
IMAGE = "vllm-portal-test-stand-in:1"
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


@pytest.fixture(scope="module")
def stand_in_image(engine_image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand-in-image")
    shutil.copytree(ROOT / "engines" / "simulator", folder / "engines" / "simulator")
    (folder / "engines" / "__init__.py").touch()
    (folder / "Dockerfile").write_text(
        f"FROM {engine_image}\nWORKDIR /app\nCOPY engines engines\n"
        'ENTRYPOINT ["/opt/vllm/bin/python", "-u", "-m", "engines.simulator"]\n'
    )
    build(IMAGE, folder)
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


def all_containers() -> dict[str, str]:
    """Those of the stand-in's image, which nobody else uses: their ids by name."""
    lines = docker("ps", "-a", "--no-trunc", "--filter", f"ancestor={IMAGE}", "--format", "{{.Names}} {{.ID}}")
    return dict(line.split() for line in lines.splitlines())


@pytest.fixture
def bystanders(stand_in_image):
    """Containers of another portal's and of nobody's."""
    labels = [["--label", f"{LABEL_PORTAL}=another", "--label", f"{LABEL_ENGINE}=1"], []]
    made = [docker("run", "-d", *label, "--entrypoint", "sleep", stand_in_image, "7200") for label in labels]
    yield {name: identity for name, identity in all_containers().items() if identity in made}
    docker("rm", "-f", *made)


@pytest.mark.parametrize(("within", "steps"), [("launch", LAUNCH), ("stop", STOP)])
def test_one_container_or_none_and_no_other_is_touched(portal, bystanders, within, steps):
    def containers() -> dict[str, set[str]]:
        return {name: {identity} for name, identity in all_containers().items() if name not in bystanders}

    alice = portal.admin().add_user("alice", "correct horse")
    lives = Lives(portal, alice, containers)
    for _ in range(ROUNDS or 1):
        for step in steps if ROUNDS else steps[1::2]:
            lives.go(step, within)
    assert lives.nothing_else_was_touched()
    assert all_containers().items() >= bystanders.items()
    assert set(docker("ps", "-q", "--no-trunc").split()) >= set(bystanders.values()), "they run"
