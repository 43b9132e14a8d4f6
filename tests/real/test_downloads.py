"""The portal downloads what a real vLLM reads, and keeps what it compiles."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.fakes.hub import FakeHub


@pytest.fixture
def hub(tiny_model):
    """It has the tiny model, and more than is read of it."""
    hub = FakeHub()
    hub.files = {path.name: path.read_bytes() for path in tiny_model.iterdir() if path.is_file()}
    hub.files |= {"README.md": b"# A model", "pytorch_model.bin": 1 << 20, "model.gguf": 1 << 20}
    yield hub
    hub.close()


def start(portal, admin, **fields):
    engine = admin.post("/api/v1/engines", **fields).json()
    path = f"/api/v1/engines/{engine['id']}"
    portal.wait_for(lambda: admin.get(path).json()["state"] in ("READY", "FAILED"), 300, "the engine to be ready")
    told = admin.get(path).json()
    assert told["state"] == "READY", told["cause"]
    return told


def test_a_real_vllm_fetches_nothing_more_itself(real_portal, native_vllm, hub):
    portal = real_portal(
        launcher="process", vllm_executable=native_vllm, hf_offline="false", hf_check="true", hf_endpoint=hub.url,
        hf_check_timeout_s=20,
    ).start()  # fmt: skip
    engine = start(portal, portal.admin(), model="acme/open")
    read = set(hub.files) - {"README.md", "pytorch_model.bin", "model.gguf"}
    assert {path for path, _ in hub.asked} - {"README.md"} == read  # something within vLLM 0.32 looks into that one
    weights = hub.sent["model.safetensors"]  # of which vLLM reads the head once more, over the network
    assert weights < 1.1 * len(hub.files["model.safetensors"])
    assert "download" in [step["phase"] for step in engine["timeline"]]
    assert engine["download"]["percent"] == 100


def test_what_one_container_compiles_the_next_finds(real_portal, engine_image, tiny_model):
    portal = real_portal(launcher="docker", docker_image=engine_image).start()
    admin = portal.admin()
    for number in range(2):
        engine = start(portal, admin, model=str(tiny_model), max_model_len=256)
        said = subprocess.run(
            ["docker", "inspect", engine["container_id"]], capture_output=True, text=True, timeout=60, check=True
        )
        (container,) = json.loads(said.stdout)
        (folder,) = [
            Path(mount["Source"]) for mount in container["Mounts"] if mount["Destination"] == "/var/cache/vllm-portal"
        ]
        assert folder.is_relative_to(portal.directory / "data" / "compile-cache")
        assert "VLLM_CACHE_ROOT=/var/cache/vllm-portal/vllm" in container["Config"]["Env"]
        within = ["docker", "exec", engine["container_id"], "sh", "-c"]
        mark = "/var/cache/vllm-portal/mark"
        seen = subprocess.run([*within, f"ls {mark}; touch {mark}"], capture_output=True, text=True, timeout=60)
        assert (mark in seen.stdout) == (number == 1)
        assert (folder / "mark").exists()
        assert admin.post("/vllm_request/terminate", container_id=engine["container_id"]).status_code == 200
