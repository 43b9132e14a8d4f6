"""The form of a start: what it begins with, what it completes, and what comes of what is typed."""

from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from engines import adapters, completion, order_lines, recipe_differences, recipes, starting
from engines.launchers.choice import chosen_name
from engines.models import Engine
from engines.order_lines import Lines
from engines.order_serializers import EngineOrderSerializer
from engines.preflight import Order
from engines.recipe_models import Recipe
from engines.serializers import portal_url
from engines.views import found
from vllm_portal.config import get_config
from vllm_portal.errors import CallerError, FieldError

_REPEATED = ("model", *Engine.OPTIONS, "shared", "lease_hours", "sleep_minutes", "idle_minutes")
_ADVANCED = (
    "revision", "gpu_memory_utilization", "seed", "tokenizer", "quantization", "adapters", "lease_hours",
    "sleep_minutes", "idle_minutes",
)  # fmt: skip
FIELDS = (*_REPEATED, "hugging_face_hub_token")
_TYPED = ("lease_hours", "sleep_minutes", "idle_minutes", "shared", "hf_token")
"""Of an order from a recipe, what is not the recipe's."""


@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_engine(request: HttpRequest) -> HttpResponse:
    """`?again=<id>` fills the form with what that engine was started with, without its token, and with what may cure it
    where it has failed; `?recipe=<id>` with what a recipe says. One that is not this user's fills in nothing."""
    if request.method != "POST":
        return _form(request, _first(request), {})
    given = {name: value for name, value in request.POST.items() if value and name != "csrfmiddlewaretoken"}
    order = EngineOrderSerializer(data=as_json(given))
    if not order.is_valid():
        return _form(request, given, {name: words(said) for name, said in order.errors.items()}, status=400)
    recipe = recipes.named(request.user, given.get("recipe", ""))
    same = recipe is not None and recipes.is_same(recipe, order.order())
    try:
        engine = starting.start(request.user, _from(recipe, order.order()) if same else order.order())
    except FieldError as error:
        return _form(request, given, {order.as_written(error).field: str(error)}, status=400)
    except CallerError as error:
        return _form(request, given, {"": str(error)}, status=400)
    if recipe is not None and not same:
        messages.info(request, f"Started with what you changed, which is no longer the recipe {recipe}.")
    return redirect("engine-page", engine_id=engine.pk)


@never_cache
@require_POST
def lines(request: HttpRequest) -> HttpResponse:
    """The fields of the form as lines for a terminal, asked for while one types."""
    if not request.user.is_authenticated:
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    recipe = recipes.named(request.user, request.POST.get("recipe", ""))
    return render(request, "engines/lines.html", {"lines": _lines(request, request.POST.dict(), recipe)})


def _lines(request: HttpRequest, given: Mapping[str, Any], recipe: Recipe | None) -> Lines:
    """Those of the recipe where nothing is changed of what it fixes; else it is an order like any other."""
    fixed = {name: str(value).strip() for name, value in _filled(recipe).items()} if recipe else {}
    typed = {name: "\n".join(str(given.get(name, "")).strip().splitlines()) for name in recipes.FIXED}
    same = recipe is not None and typed == {name: fixed.get(name, "") for name in recipes.FIXED}
    sent = {name: given.get(name, "") for name in FIELDS}
    return order_lines.of(as_json(sent), recipe if same else None, portal_url(request))


def as_json(given: dict[str, Any]) -> dict[str, Any]:
    """What the form sends as the API takes it: adapters stand in a text, each on a line of its own."""
    return {**given, "adapters": _adapters(given.get("adapters", ""))}


def _adapters(text: str) -> list[dict[str, str]]:
    """Of lines like `sql=acme/tiny-sql@v1`; a folder has no revision, and may have an @ in its name."""
    read = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, model = (part.strip() for part in line.partition("="))
        model, _, revision = (model, "", "") if model.startswith("/") else model.partition("@")
        read.append({"name": name, "model": model, "revision": revision})
    return read


def _from(recipe: Recipe, order: Order) -> Order:
    return recipes.order_of(recipe, {name: getattr(order, name) for name in _TYPED})


def words(said: Any) -> str:
    """The first of a field's problems; of a list's those of its first wrong entry."""
    while not isinstance(said, str):
        said = next((one for one in (said.values() if isinstance(said, dict) else said) if one), "")
    return said


def _form(request: HttpRequest, given: dict[str, Any], problems: dict[str, Any], status: int = 200) -> HttpResponse:
    """`problems`: by field; "": of the whole order."""
    recipe = recipes.named(request.user, str(given.get("recipe", "")))
    context = {
        "given": {name: value for name, value in given.items() if name != "hugging_face_hub_token"},
        "problems": {name: text for name, text in problems.items() if name in FIELDS},
        "others": [f"{name} {text}".strip() for name, text in problems.items() if name not in FIELDS],
        "models": completion.models_for(request.user),
        "recipes": recipes.visible_to(request.user).select_related("owner")[: recipes.MOST],
        "recipe": recipe,
        "lines": _lines(request, given, recipe),
        "warnings": recipe_differences.before(recipe, recipe_differences.Today()) if recipe else [],
        "simulated": chosen_name() == "simulator",
        "sleeps": get_config().sleep_level > 0,
        "advanced": bool({*_ADVANCED} & {*problems, *given}),
    }
    return render(request, "engines/new.html", context, status=status)


def _first(request: HttpRequest) -> dict[str, Any]:
    """What the form begins with."""
    if recipe := recipes.named(request.user, request.GET.get("recipe", "")):
        stay = {name: getattr(recipe, name) for name in ("lease_hours", "sleep_minutes", "idle_minutes")}
        return _filled(recipe) | _told(stay) | {"recipe": recipe.pk}
    engine = found(request, request.GET.get("again", ""))
    if engine is None:
        return {"model": request.GET.get("model", "")[:300]}
    options = {name: getattr(engine, name) for name in _REPEATED} | (engine.change or {})
    return _told({**options, "adapters": adapters.as_text(options["adapters"]), "recipe": engine.recipe_id})


def _filled(recipe: Recipe) -> dict[str, Any]:
    """Its fixed fields as the form has them."""
    fixed = {name: getattr(recipe, name) for name in recipes.FIXED}
    return _told({**fixed, "adapters": adapters.as_text(recipe.adapters)})


def _told(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty; a seed of 0 is not."""
    return {name: value for name, value in values.items() if value not in (None, "") and value is not False}
