"""The page of recipes, and the forms that make and delete them. To start one is the form of a start."""

from dataclasses import dataclass

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts.change_log import note
from engines import recipe_differences, recipe_measures, recipes
from engines.recipe_models import Recipe
from engines.recipes_serializers import RecipeChangeSerializer
from engines.views import own
from vllm_portal.errors import CallerError


@dataclass(frozen=True)
class Shown:
    """A recipe as the viewer sees it."""

    recipe: Recipe
    own: bool
    measured: list[str]
    warnings: list[str]


@never_cache
@login_required
@require_safe
def recipes_page(request: HttpRequest) -> HttpResponse:
    rows = list(recipes.visible_to(request.user).select_related("owner")[: recipes.MOST])
    measured, today = recipe_measures.of(rows), recipe_differences.Today()
    shown = [
        Shown(
            recipe,
            request.user.is_admin or recipe.owner_id == request.user.pk,
            measured[recipe.pk].told,
            recipe_differences.before(recipe, today),
        )
        for recipe in rows
    ]
    return render(request, "engines/recipes.html", {"shown": shown})


@never_cache
@login_required
@require_POST
def keep_recipe(request: HttpRequest, engine_id: str) -> HttpResponse:
    """A recipe of that engine."""
    engine = own(request, engine_id)
    given = {"name": request.POST.get("name", ""), "notes": request.POST.get("notes", "")}
    if "published" in request.POST:
        given["published"] = True
    form = RecipeChangeSerializer(data=given)
    if not form.is_valid():
        messages.error(request, " ".join(f"{name}: {said[0]}" for name, said in form.errors.items()))
        return redirect("engine-page", engine_id=engine.pk)
    try:
        recipe = recipes.from_engine(request.user, engine, form.validated_data)
    except CallerError as error:
        messages.error(request, str(error))
        return redirect("engine-page", engine_id=engine.pk)
    if recipe.published:
        note(request.user, recipe, "added", published=True)
    messages.success(request, f"The recipe {recipe} is kept.")
    return redirect("recipes")


@never_cache
@login_required
@require_POST
def delete_recipe(request: HttpRequest, recipe_id: str) -> HttpResponse:
    recipe = recipes.owned_by(request.user).filter(pk=int(recipe_id)).first()
    if recipe is None:
        raise Http404("There is no such recipe among yours.")
    recipes.remove(recipe, request.user)
    messages.success(request, f"The recipe {recipe} is deleted. Its engines stay.")
    return redirect("recipes")
