"""A docker launcher at a real daemon, looked at by its own command line tool and not by the code under test."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.launchers.base import LaunchSpec
from engines.launchers.container_config import LABEL_PORTAL, DockerSettings
from engines.launchers.docker import DockerLauncher
from tests.engines.launchers.contract import new_name

FAKE_ENGINE = Path(__file__).parent.parent / "engines" / "launchers" / "fake_engine.py"
FAKE_IMAGE = "vllm-portal-test-fake-engine:1"


def docker(*arguments: str, check: bool = True, **options: Any) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=300, **options)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def build(tag: str, folder: Path) -> None:
    """With the builder that every Docker brings along."""
    docker("build", "-q", "-t", tag, str(folder), env={**os.environ, "DOCKER_BUILDKIT": "0"})


def inspect(name: str) -> dict[str, Any]:
    return json.loads(docker("inspect", "--type", "container", name))[0]


@pytest.fixture(scope="session")
def fake_image(engine_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("fake-image")
    shutil.copy(FAKE_ENGINE, folder)
    (folder / "Dockerfile").write_text(
        f'FROM {engine_image}\nCOPY fake_engine.py /\nENTRYPOINT ["python3", "-u", "/fake_engine.py"]\n'
    )
    build(FAKE_IMAGE, folder)
    yield FAKE_IMAGE
    docker("rmi", "-f", FAKE_IMAGE, check=False)


class DockerRig:
    def __init__(self, folder: Path, image: str) -> None:
        self.portal_id = f"test-{uuid.uuid4().hex[:12]}"
        self.other_portal_id = f"{self.portal_id}-other"
        self.folder = folder
        self.image = image

    def launcher(self, portal_id: str | None = None, **settings: Any) -> DockerLauncher:
        values = {
            "portal_id": portal_id or self.portal_id,
            "log_dir": self.folder / "logs",
            "hf_cache": str(self.folder / "hf"),
            "environment": dict(os.environ),
        }
        return DockerLauncher(DockerSettings(**values | settings))

    def spec(self, **changes: Any) -> LaunchSpec:
        values = {"name": new_name(), "portal_id": self.portal_id, "engine_id": uuid.uuid4().hex, "generation": 1}
        return LaunchSpec(**values | {"argv": ["some/model"], "image": self.image} | changes)

    def identity(self, name: str) -> str:
        return inspect(name)["Id"] + inspect(name)["State"]["StartedAt"]

    def kill(self, name: str) -> None:
        docker("kill", "-s", "KILL", name)

    def is_alive(self, name: str) -> bool:
        return docker("inspect", "-f", "{{.State.Running}}", name, check=False) == "true"

    def in_plain_sight(self, name: str) -> str:
        return docker("inspect", name) + docker("top", name)

    def end_all(self) -> None:
        for portal in (self.portal_id, self.other_portal_id):
            found = docker("ps", "-aq", "--filter", f"label={LABEL_PORTAL}={portal}").split()
            if found:
                docker("rm", "-f", *found, check=False)


@pytest.fixture
def rig(tmp_path: Path, fake_image: str) -> Iterator[DockerRig]:
    rig = DockerRig(tmp_path, fake_image)
    yield rig
    rig.end_all()
