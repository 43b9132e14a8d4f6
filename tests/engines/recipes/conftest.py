"""Recipes, and people who make and start them."""

import pytest

from engines.models import Engine

RECIPES = "/api/v1/recipes"


@pytest.fixture
def api(client_of, people):
    """api(name): a client that is logged in as that person."""
    return lambda name="alice": client_of(people[name])


@pytest.fixture
def docker(setting, monkeypatch):
    """Engines are run by Docker, as far as rows say."""
    for module in ("engines.preflight", "engines.recipe_differences"):
        monkeypatch.setattr(f"{module}.chosen_name", lambda: "docker")
    setting(docker_image="vllm/vllm-openai:new", device="cuda")


@pytest.fixture
def recipe(api):
    """recipe(name, by, **fields): made, as the answer has it."""

    def make(name="exam", by="alice", **fields):
        fields = fields if "engine" in fields else {"model": "acme/tiny", **fields}
        answer = api(by).post(RECIPES, {"name": name, **fields}, format="json")
        assert answer.status_code == 201, answer.content
        return answer.json()

    return make


def start(client, recipe, body=None, **headers):
    return client.post(f"{RECIPES}/{recipe['id']}/start", body or {}, format="json", headers=headers)


def newest() -> Engine:
    return Engine.objects.latest("created_at")
