"""LoRA adapters on a real vLLM: they answer in their own words, and what does not fit is told; and a recipe of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.hub import COMMIT, FakeHub
from tests.journeys.portal_process import PortalProcess, Session
from tests.real.conftest import LAB
from tests.real.test_whole_way import containers

PROMPT = "Once upon a time"


@pytest.fixture
def adapter(tmp_path, tiny_model):
    """adapter(name, *options): its folder."""

    def make(name: str, *options: str) -> Path:
        folder = tmp_path / "adapters" / name
        subprocess.run(
            [sys.executable, LAB / "make_tiny_adapter.py", tiny_model, folder, *options], check=True, timeout=60
        )
        return folder

    return make


@pytest.fixture
def hub(adapter):
    """Of a hub all of whose repositories hold this adapter."""
    hub = FakeHub()
    folder = adapter("of-the-hub", "--seed", "2", "--rank", "24")
    hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    yield hub
    hub.close()


def started(portal: PortalProcess, user: Session, path: str, **order) -> dict:
    """The engine once it is READY, or has failed."""
    answer = user.post(path, **order)
    assert answer.status_code == 202, answer.text
    address = f"/api/v1/engines/{answer.json()['id']}"
    portal.wait_for(lambda: user.get(address).json()["state"] in ("READY", "FAILED"), 300, "the engine to come up")
    return user.get(address).json()


def words(user: Session, model: str, path: str = "/v1/completions") -> str:
    answer = user.post(path, model=model, prompt=PROMPT, max_tokens=24, temperature=0)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


@pytest.mark.parametrize("launcher", ["docker", "process"])
def test_adapters_answer_in_their_own_words(request, launcher, real_portal, tiny_model, adapter, hub, tmp_path):
    how = {"docker_image": request.getfixturevalue("engine_image")}
    if launcher == "process":
        how = {"vllm_executable": request.getfixturevalue("native_vllm")}
    law = adapter("law", "--seed", "1")
    roots = f"{tiny_model.parent},{law.parent}"
    portal = real_portal(
        launcher=launcher, allowed_model_roots=roots, hf_endpoint=hub.url, hf_offline="false", **how
    ).start()
    alice, bob = (portal.admin().add_user(name, "correct horse") for name in ("alice", "bob"))
    adapters = [{"name": "sql", "model": "acme/open"}, {"name": "law", "model": str(law)}]
    order = {"model": str(tiny_model), "max_model_len": 256, "seed": 7, "adapters": adapters, "shared": True}
    engine = started(portal, alice, "/api/v1/engines", **order)
    assert engine["state"] == "READY", engine["cause"] + portal.console()
    assert engine["adapters"][0]["revision"] == COMMIT
    assert (tmp_path / "hf/hub/models--acme--open/snapshots" / COMMIT / "adapter_model.safetensors").exists()

    said = {model: words(alice, model) for model in (str(tiny_model), "sql", "law")}
    assert len(set(said.values())) == 3, said
    full = f"{tiny_model}:acme/open"
    assert words(bob, full) == said["sql"]
    assert words(bob, "law", f"/engines/{engine['id']}/v1/completions") == said["law"]
    assert bob.post("/v1/completions", model="sql", prompt=PROMPT).status_code == 404
    listed = {one["id"] for one in alice.get("/v1/models").json()["data"]}
    assert listed == {str(tiny_model), full, f"{tiny_model}:{law}", "sql", "law"}
    records = "select model, count(*) as requests from inference_usagerecord group by model"
    portal.wait_for(lambda: sum(row["requests"] for row in portal.database_rows(records)) == 5, 10, "the records")
    assert {row["model"]: row["requests"] for row in portal.database_rows(records)} == {
        str(tiny_model): 1, full: 2, f"{tiny_model}:{law}": 2,
    }  # fmt: skip
    assert portal.audit() == "all is as it must be\n"

    recipe = alice.post("/api/v1/recipes", name="exam", engine=engine["id"]).json()
    assert (recipe["warnings"], recipe["vllm_version"]) == ([], engine["vllm_version"])
    assert recipe["vllm_version"].startswith("0.32.0")
    assert recipe["measured"]["load_s"] > 1
    assert recipe["measured"]["kv_cache_tokens"] > 1000
    if launcher == "docker":
        (container,) = containers(f"vllm-portal.engine={engine['id']}")
        assert recipe["image_digest"] == container["Image"] == engine["image_digest"]
    alice.post("/vllm_request/terminate", container_id=engine["container_id"])
    hub.close()  # what was fetched once is there
    again = started(portal, alice, f"/api/v1/recipes/{recipe['id']}/start")
    assert (again["state"], again["warnings"], again["recipe"]) == ("READY", [], "exam"), again["cause"]
    assert {model: words(alice, model) for model in said} == said


def test_an_adapter_of_another_model_is_the_cause(real_portal, tiny_model, adapter, engine_image):
    wide = adapter("wide", "--hidden", "256")
    roots = f"{tiny_model.parent},{wide.parent}"
    portal = real_portal(launcher="docker", docker_image=engine_image, allowed_model_roots=roots).start()
    alice = portal.admin().add_user("alice", "correct horse")
    order = {"model": str(tiny_model), "max_model_len": 256, "adapters": [{"name": "sql", "model": str(wide)}]}
    failed = started(portal, alice, "/api/v1/engines", **order)
    assert (failed["state"], failed["cause_code"]) == ("FAILED", "adapter_mismatch"), json.dumps(failed)


def test_a_recipes_own_image_is_started_where_it_is_allowed(real_portal, tiny_model, engine_image):
    """An image that is called otherwise by now is found by its id."""
    identity = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", engine_image], check=True, capture_output=True, text=True
    ).stdout.strip()
    portal = real_portal(launcher="docker", docker_image=engine_image, recipe_images=identity).start()
    alice = portal.admin().add_user("alice", "correct horse")
    engine = started(portal, alice, "/api/v1/engines", model=str(tiny_model), max_model_len=256)
    recipe = alice.post("/api/v1/recipes", name="exam", engine=engine["id"]).json()
    again = started(portal, alice, f"/api/v1/recipes/{recipe['id']}/start")
    assert (again["state"], again["image"], again["image_digest"], again["warnings"]) == (
        "READY", identity, identity, [],
    )  # fmt: skip
