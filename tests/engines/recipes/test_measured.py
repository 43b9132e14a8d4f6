"""What starts of a recipe's kind measured."""

from datetime import timedelta

import pytest

from engines import gauges, starting
from engines.metrics import Metrics
from engines.models import Engine, EngineEvent
from engines.preflight import Order
from engines.recipe_models import Recipe
from engines.states import State
from tests.engines.conftest import NOW
from tests.engines.recipes.conftest import RECIPES, newest, start

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = "/api/v1/engines"
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def test_what_starts_of_the_kind_measured(recipe, api, alice, engine_in):
    made = recipe(seed=5)
    assert made["measured"] == {"starts": 0, "load_s": None, "tokens_per_s": None, "kv_cache_tokens": None}
    kind = Recipe.objects.get().kind
    for number, seconds in enumerate((10, 90, 30)):
        engine = engine_in(State.READY, kind=kind, peak_tokens_per_s=100.0 + number)
        phases = [["kv_cache", 5.0, f"{number + 1},024 tokens"]]
        at = NOW + timedelta(seconds=seconds)
        Engine.objects.filter(pk=engine.pk).update(ready_at=NOW + timedelta(days=number), phases=phases)
        EngineEvent.objects.filter(engine=engine, new_state=State.READY).update(at=at)
    engine_in(State.READY, kind="another")
    measured = {"starts": 3, "load_s": 30.0, "tokens_per_s": 102.0, "kv_cache_tokens": 3024}
    assert api().get(f"{RECIPES}/{made['id']}").json()["measured"] == measured


def test_starts_with_and_without_a_recipe_are_of_one_kind(api, recipe, alice):
    start(api(), recipe(seed=5))
    assert newest().kind == starting.start(alice, Order("acme/tiny", seed=5)).kind
    assert newest().kind != starting.start(alice, Order("acme/tiny", seed=6)).kind


def test_a_list_costs_the_same_however_long_it_is(recipe, api, engine_in, django_assert_max_num_queries):
    for number in range(12):
        recipe(f"r{number}", seed=number)
        engine_in(State.READY, kind=Recipe.objects.latest("pk").kind)
    client = api()
    client.get(RECIPES)
    with django_assert_max_num_queries(8):
        assert len(client.get(RECIPES).json()["results"]) == 12


def test_the_most_that_an_engine_generated_is_kept(engine_in):
    engine = engine_in(State.READY)
    for at, generated in ((0, 0), (1, 100), (2, 120), (3, 400)):
        gauges.note(engine, Metrics(0, generated, 1, 0, None), float(at))
    assert Engine.objects.get(pk=engine.pk).peak_tokens_per_s == 280.0
