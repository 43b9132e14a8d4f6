"""Recipes in the admin pages."""

import pytest
from django.urls import reverse

from engines import recipes
from engines.models import Engine
from engines.preflight import Order
from engines.recipe_models import Recipe

LIST = "/admin/engines/recipe/"

pytestmark = pytest.mark.django_db


@pytest.fixture
def pages(client, root):
    client.force_login(root)
    return client


@pytest.fixture
def recipe(alice):
    return recipes.from_order(alice, Order("acme/tiny", seed=7), {"name": "exam"})


def test_a_recipe_is_published_and_keeps_what_it_fixes(pages, recipe):
    page = reverse("admin:engines_recipe_change", args=[recipe.pk])
    assert "would" not in pages.get(LIST).content.decode()
    assert "acme/tiny" in pages.get(page).content.decode()
    body = {"name": "final", "published": "on", "notes": "", "lease_hours": "2", "idle_minutes": "", "seed": "9"}
    assert pages.post(page, body).status_code == 302
    now = Recipe.objects.get()
    assert (now.name, now.published, now.lease_hours, now.wakes, now.seed) == ("final", True, 2.0, False, 7)


@pytest.mark.parametrize("name", ["17", "taken"])
def test_a_name_that_cannot_be_is_said(pages, recipe, root, alice, name):
    recipes.from_order(alice, Order("acme/tiny"), {"name": "taken"})
    answer = pages.post(reverse("admin:engines_recipe_change", args=[recipe.pk]), {"name": name, "wakes": "on"})
    assert answer.status_code == 200
    assert Recipe.objects.get(pk=recipe.pk).name == "exam"


def test_it_is_started_there(pages, recipe, root):
    body = {"action": "start", "_selected_action": [str(recipe.pk)]}
    said = pages.post(LIST, body, follow=True).content.decode()
    engine = Engine.objects.get()
    assert (engine.owner, engine.recipe, engine.seed) == (root, recipe, 7)
    assert f"exam is started as {engine.name}." in said
    assert "The recipe does not know the model" in said


def test_it_is_deleted_and_none_is_made_there(pages, recipe):
    assert pages.get(f"{LIST}add/").status_code == 403
    pages.post(reverse("admin:engines_recipe_delete", args=[recipe.pk]), {"post": "yes"})
    assert not Recipe.objects.exists()
