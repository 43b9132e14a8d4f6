"""What the real tests stand on: made by the lab's scripts, which fail loudly where something is missing."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.attack.fail_points.took import pytest_configure, pytest_terminal_summary  # noqa: F401
from tests.journeys.portal_process import PortalProcess
from tests.real.docker_rig import fake_image, rig  # noqa: F401

LAB = Path(__file__).parent / "lab"
CACHE = Path(os.environ.get("PORTAL_TEST_CACHE") or Path.home() / ".cache/vllm-portal-tests")


def _lab(script: str, *arguments: str) -> str:
    """Runs a script of the lab; the last line that it prints."""
    done = subprocess.run([LAB / script, *arguments], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, f"{script} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


@pytest.fixture(scope="session")
def docker_daemon():
    _lab("ensure_docker.sh")


@pytest.fixture(scope="session")
def engine_image(docker_daemon):
    """The tag of the CPU image of vLLM."""
    _lab("build_engine_image.sh", "vllm-cpu-engine:0.32.0")
    return "vllm-cpu-engine:0.32.0"


@pytest.fixture(scope="session")
def native_vllm(engine_image):
    """The path of a `vllm` executable that runs on this machine."""
    return _lab("native_vllm.sh", engine_image)


@pytest.fixture(scope="session")
def tiny_model(engine_image):
    """A directory with a chat model of 24 layers and random weights; the same bytes each time."""
    return _model(engine_image, "tiny-chat", "--layers", "24")


@pytest.fixture(scope="session")
def tiny_model_without_template(engine_image):
    return _model(engine_image, "tiny-plain", "--no-chat-template")


@pytest.fixture(scope="session")
def tiny_embedding_model(engine_image):
    return _model(engine_image, "tiny-embed", "--kind", "embed")


def _model(image: str, name: str, *options: str) -> Path:
    maker = LAB / "make_tiny_model.py"
    recipe = hashlib.sha256(maker.read_bytes() + " ".join(options).encode()).hexdigest()[:12]
    models = CACHE / "models" / recipe
    if not (models / name / "config.json").exists():
        models.mkdir(parents=True, exist_ok=True)
        command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "/opt/vllm/bin/python"]
        mounts = ["-v", f"{LAB}:/lab:ro", "-v", f"{models}:/models"]
        made = ["/lab/make_tiny_model.py", f"/models/{name}", *options]
        subprocess.run([*command, *mounts, image, *made], check=True, timeout=300)
    return models / name


@pytest.fixture
def real_portal(tmp_path, tiny_model):
    portals = []

    def make(**settings) -> PortalProcess:
        fixed = {
            "device": "cpu",
            "hf_offline": "true",
            "hf_cache_dir": tmp_path / "hf",
            "allowed_model_roots": tiny_model.parent,
            "stop_engines_on_exit": "true",
        }
        portal = PortalProcess(tmp_path, **{**fixed, **settings})
        portals.append(portal)
        return portal

    yield make
    for portal in portals:
        portal.stop()
