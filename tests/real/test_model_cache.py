"""A model of the Hugging Face cache: an engine loads the commit of the moment in which it was asked for."""

import json
import shutil
from pathlib import Path

import requests

from tests.journeys.portal_process import ADMIN_PASSWORD, Session

OLD, NEW = "01d" * 13 + "0", "4e3" * 13 + "4"
LENGTHS = {OLD: 256, NEW: 512}


def cache(folder: Path, model: Path) -> Path:
    """A repository with two commits that differ in how long requests may be. Its file that names main's commit."""
    repository = folder / "hub" / "models--acme--tiny"
    for commit, length in LENGTHS.items():
        snapshot = shutil.copytree(model, repository / "snapshots" / commit)
        config = json.loads((snapshot / "config.json").read_text())
        (snapshot / "config.json").write_text(json.dumps(config | {"max_position_embeddings": length}))
    (repository / "refs").mkdir()
    return repository / "refs" / "main"


def delete(user: Session, path: str) -> int:
    return requests.delete(user.portal.url + path, headers=user.headers, timeout=30).status_code


def test_a_branch_that_moves_changes_no_engine_that_was_asked_for(real_portal, tiny_model, engine_image, tmp_path):
    main = cache(tmp_path / "hf", tiny_model)
    portal = real_portal(launcher="docker", docker_image=engine_image).start()
    admin = portal.log_in("admin", ADMIN_PASSWORD)
    main.write_text(OLD)
    engine = admin.post("/api/v1/engines", model="acme/tiny").json()
    assert engine["revision"] == OLD
    main.write_text(NEW)  # which an engine without a revision would load
    path = f"/api/v1/engines/{engine['id']}"
    portal.wait_for(lambda: admin.get(path).json()["state"] == "READY", 300, "the engine to be ready")
    assert admin.get(path).json()["max_model_len"] == LENGTHS[OLD]

    (listed,) = admin.get("/api/v1/cached-models").json()["results"]
    assert (listed["model"], listed["commits"], listed["engines"]) == ("acme/tiny", [OLD, NEW], [engine["name"]])
    assert delete(admin, "/api/v1/cached-models/acme--tiny") == 409
    assert delete(admin, path) == 202
    portal.wait_for(lambda: admin.get(path).json()["state"] == "STOPPED", 60, "the engine to stop")
    assert delete(admin, "/api/v1/cached-models/acme--tiny") == 204
    assert not main.exists()
