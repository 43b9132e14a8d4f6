"""How an engine differs from its recipe: told before its start, and by itself afterwards."""

from datetime import timedelta

import pytest

from engines import checking, launching
from engines.models import Engine
from engines.states import State
from tests.engines.conftest import NOW
from tests.engines.recipes.conftest import RECIPES, newest, start
from tests.fakes.hub import COMMIT, OLD_COMMIT

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = "/api/v1/engines"
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.fixture
def ran(engine_in):
    """ran(digest, image, version): an engine that got ready so."""

    def make(digest, image="vllm/vllm-openai:new", version="0.32.0", state=State.READY, **columns):
        return engine_in(
            state, launcher="docker", device="cuda", image=image, image_digest=digest, vllm_version=version,
            revision=COMMIT, **columns,
        )  # fmt: skip

    return make


def test_another_image_is_told_before_the_start_and_after_it(docker, ran, api, recipe):
    made = recipe(engine=str(ran(DIGEST).pk))
    assert made["warnings"] == []
    Engine.objects.filter(pk=ran(OTHER).pk).update(ready_at=NOW + timedelta(hours=1))
    (told,) = api().get(f"{RECIPES}/{made['id']}").json()["warnings"]
    assert "bbbbbbbbbbbb now" in told
    assert "with aaaaaaaaaaaa of vllm/vllm-openai:new (vLLM 0.32.0)" in told
    started = start(api(), made).json()
    assert started["warnings"] == [told]
    Engine.objects.filter(pk=started["id"]).update(image_digest=DIGEST)
    assert api().get(f"{ENGINES}/{started['id']}").json()["warnings"] == []
    Engine.objects.filter(pk=started["id"]).update(image_digest="sha256:" + "c" * 64)
    assert "cccccccccccc now" in api().get(f"{ENGINES}/{started['id']}").json()["warnings"][0]


def test_the_recipes_image_is_started_where_the_admin_allows_it(docker, ran, api, recipe, setting):
    made = recipe(engine=str(ran(DIGEST, image="vllm/vllm-openai:old").pk))
    start(api(), made)
    assert newest().image == "vllm/vllm-openai:new"
    setting(recipe_images=["vllm/vllm-openai:old"])
    start(api(), made)
    assert newest().image == "vllm/vllm-openai:old"
    setting(recipe_images=["vllm/vllm-openai:old", DIGEST])
    started = start(api(), made).json()
    assert (newest().image, launching.launch_spec(newest()).image, started["warnings"]) == (DIGEST, DIGEST, [])


def test_another_launcher_is_told(ran, recipe, api):
    made = recipe(engine=str(ran(DIGEST).pk))
    assert made["warnings"] == ["Engines are run by simulator on cpu now; the recipe was made with docker on cuda."]


def test_another_vllm_is_told_where_there_is_no_image(engine_in, recipe, api, monkeypatch):
    old = engine_in(State.READY, launcher="simulator", vllm_version="0.31.0", revision=COMMIT)
    made = recipe(engine=str(old.pk))
    new = engine_in(State.READY, launcher="simulator", vllm_version="0.32.0")
    Engine.objects.filter(pk=new.pk).update(ready_at=NOW + timedelta(hours=1))
    assert api().get(f"{RECIPES}/{made['id']}").json()["warnings"] == [
        "vLLM is 0.32.0 now; the recipe was made with 0.31.0."
    ]


def test_a_recipe_that_knows_no_commit_says_so(recipe):
    assert recipe()["warnings"] == [
        "The recipe does not know the model's commit: the model is started as it is by then."
    ]


def test_the_operators_revision_is_told(hub, recipe, api, setting):
    made = recipe(model="acme/open")
    setting(engine_extra_args=["--revision", "v1"])
    assert start(api(), made).json()["warnings"] == [f"The model is that of {OLD_COMMIT}, the recipe's of {COMMIT}."]


def test_the_first_engine_tells_a_recipe_made_from_options_what_runs_it(served, recipe, api):
    made = recipe()
    engine, _ = served(State.LOADING, recipe_id=made["id"], launcher="simulator", image_digest=DIGEST)
    checking.check(engine.pk)
    known = api().get(f"{RECIPES}/{made['id']}").json()
    assert (known["vllm_version"], known["image_digest"]) == ("0.32.0-simulated", DIGEST)
    Engine.objects.filter(pk=engine.pk).update(state=State.LOADING, image_digest=OTHER)
    checking.check(engine.pk)
    assert api().get(f"{RECIPES}/{made['id']}").json()["image_digest"] == DIGEST


def test_the_digest_is_noted_when_the_container_runs(running, fake):
    engine = running(State.STARTING)
    container = fake.containers[engine.container_name]
    container.seen = type(container.seen)(**{**container.seen.__dict__, "image_digest": DIGEST})
    launching.launch(engine.pk)
    assert Engine.objects.get(pk=engine.pk).image_digest == DIGEST
