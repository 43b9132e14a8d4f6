"""The whole way on a real vLLM, in a real container and as a real process, against a portal as `make run` starts it."""

import json
import subprocess

import requests

from tests.journeys import whole_way
from tests.journeys.portal_process import PortalProcess, Session

MAX_MODEL_LEN = 1024


def containers(label: str = "vllm-portal.engine") -> list[dict]:
    """What `docker inspect` says of all containers with that label, running or not."""
    ids = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label={label}"], check=True, capture_output=True, text=True
    ).stdout.split()
    if not ids:
        return []
    return json.loads(subprocess.run(["docker", "inspect", *ids], check=True, capture_output=True, text=True).stdout)


def test_the_whole_way_in_a_container(real_portal, tiny_model, engine_image):
    portal = real_portal(launcher="docker", docker_image=engine_image).start()
    listed = whole_way.travel(portal, str(tiny_model), max_model_len=MAX_MODEL_LEN, start_timeout_s=300)
    engine_id = listed["inference_end_point"].split("/")[4]
    assert containers(f"vllm-portal.engine={engine_id}") == [], "nothing is left of it"
    assert listed["container_id"] not in {one["Id"] for one in containers()}


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


def test_models_that_cannot_chat(real_portal, tiny_model_without_template, tiny_embedding_model, engine_image):
    """A model without a chat template gets a transcript; an embedding model is ready by its first vector."""
    plain, embed = str(tiny_model_without_template), str(tiny_embedding_model)
    roots = f"{tiny_model_without_template.parent},{tiny_embedding_model.parent}"
    portal = real_portal(launcher="docker", docker_image=engine_image, allowed_model_roots=roots).start()
    alice = portal.admin().add_user("alice", "correct horse")
    for model in (plain, embed):
        accepted = alice.post("/vllm_request/start", Model=model, MAX_MODEL_LEN=512, wait=False)
        assert accepted.status_code == 202, accepted.text
        assert alice.get(accepted.headers["Location"].removeprefix(portal.url)).status_code == 200
    portal.wait_for(lambda: len(alice.get("/active_models/").json()) == 2, 300, "both engines to be ready")

    answer = alice.post("/llm_request", model=plain, prompt="Once upon a time", max_tokens=8, memory=True)
    assert answer.status_code == 200, answer.text
    refused = alice.post("/v1/chat/completions", model=plain, messages=[{"role": "user", "content": "hi"}])
    assert (refused.status_code, isinstance(refused.json()["error"]["code"], str)) == (400, True)

    vectors = alice.post("/v1/embeddings", model=embed, input=["one", "two words"]).json()
    assert len(vectors["data"]) == 2
    assert alice.post("/llm_request", model=embed, prompt="hi").status_code == 400
    records = "select path, prompt_tokens, outcome from inference_usagerecord order by id"
    portal.wait_for(lambda: len(portal.database_rows(records)) == 3, 10, "three records")
    written = portal.database_rows(records)
    assert [row["path"] for row in written] == ["/v1/completions", "/v1/chat/completions", "/v1/embeddings"]
    assert [row["outcome"] for row in written] == ["completed", "refused", "completed"]
    assert written[2]["prompt_tokens"] == vectors["usage"]["prompt_tokens"] > 0
    sleeps_and_wakes(portal, alice, plain)


def sleeps_and_wakes(portal: PortalProcess, alice: Session, model: str) -> None:
    """Hours later nobody has asked it: its container goes. A stream brings it back and hears how it comes up."""
    (engine,) = [one for one in alice.get("/api/v1/engines").json()["results"] if one["model"] == model]
    path = f"/api/v1/engines/{engine['id']}"
    requests.patch(portal.url + path, json={"idle_minutes": 60}, headers=alice.headers, timeout=10).raise_for_status()
    records = portal.database_rows("select id, started_at from inference_usagerecord")
    portal.change_rows("update inference_usagerecord set started_at = '2020-01-01 00:00:00'")
    portal.change_rows(
        "update engines_engine set state_since = '2020-01-01 00:00:00', used_at = null where idle_minutes = 60"
    )
    portal.wait_for(lambda: alice.get(path).json()["state"] == "ASLEEP", 60, "the engine to sleep")
    for record in records:  # the sums by hour know them at their own time
        portal.change_rows("update inference_usagerecord set started_at = ? where id = ?", *reversed(record.values()))
    assert containers(f"vllm-portal.engine={engine['id']}") == []
    assert {one["container_id"] for one in alice.get("/active_models/").json()} >= {engine["container_id"]}
    body = {"model": model, "prompt": "Once", "max_tokens": 4, "stream": True}
    answer = requests.post(portal.url + "/v1/completions", json=body, headers=alice.headers, timeout=300)
    told, *_, end = answer.text.strip().split("\n\n")
    assert (answer.status_code, told.startswith(": "), end) == (200, True, "data: [DONE]")
    assert ": loading" in answer.text
    (container,) = containers(f"vllm-portal.engine={engine['id']}")
    assert container["Name"].endswith("-2")
    assert portal.audit() == "all is as it must be\n"
