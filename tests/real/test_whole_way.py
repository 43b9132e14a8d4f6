"""The whole way on a real vLLM, in a real container and as a real process, against a portal as `make run` starts it."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.journeys import whole_way
from tests.journeys.portal_process import PortalProcess

LAB = Path(__file__).parent / "lab"
MAX_MODEL_LEN = 1024


def containers(engine_id_label: str = "vllm-portal.engine") -> list[dict]:
    ids = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label={engine_id_label}"], check=True, capture_output=True, text=True
    ).stdout.split()
    if not ids:
        return []
    return json.loads(subprocess.run(["docker", "inspect", *ids], check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def real_portal(tmp_path, tiny_model):
    portals = []

    def make(**settings) -> PortalProcess:
        portal = PortalProcess(
            tmp_path,
            device="cpu",
            hf_offline="true",
            hf_cache_dir=tmp_path / "hf",
            allowed_model_roots=tiny_model.parent,
            stop_engines_on_exit="true",
            **settings,
        )
        portals.append(portal)
        return portal

    yield make
    for portal in portals:
        portal.stop()


def test_the_whole_way_in_a_container(real_portal, tiny_model, engine_image):
    portal = real_portal(launcher="docker", docker_image=engine_image).start()
    before = {one["Id"] for one in containers()}
    listed = whole_way.travel(portal, str(tiny_model), max_model_len=MAX_MODEL_LEN, start_timeout_s=300)
    assert listed["container_id"] not in {one["Id"] for one in containers()}, "the container is gone"
    assert {one["Id"] for one in containers()} <= before


def test_the_whole_way_as_a_process(real_portal, tiny_model, native_vllm):
    portal = real_portal(launcher="process", vllm_executable=native_vllm).start()
    whole_way.travel(portal, str(tiny_model), max_model_len=MAX_MODEL_LEN, start_timeout_s=300)


def test_a_gpu_that_is_not_there_is_the_cause(real_portal, tiny_model, engine_image):
    portal = real_portal(launcher="docker", docker_image=engine_image)
    portal.environment["PORTAL_DEVICE"] = "cuda"
    alice = portal.start().admin().add_user("alice", "correct horse")
    answer = alice.post("/vllm_request/start", Model=str(tiny_model), HUGGING_FACE_HUB_TOKEN="None").json()
    assert answer["status"] == "unhealthy"
    assert "GPU" in answer["message"]
    (row,) = portal.database_rows("select state, cause_code from engines_engine")
    assert row == {"state": "FAILED", "cause_code": "no_gpu_runtime"}
