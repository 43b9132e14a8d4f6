"""Recipes: made from an engine or from options, found, changed and started. Decision 0027."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from accounts.change_log import note
from accounts.models import User
from engines import adapters, preflight
from engines.models import Engine
from engines.preflight import Order
from engines.recipe_models import Recipe
from engines.start_options import StartOptions, kind_of
from vllm_portal.config import get_config
from vllm_portal.errors import CallerError, FieldError

MOST = 200
"""Recipes of one user."""
FIXED = ("model", *StartOptions.OPTIONS)
"""What a start from a recipe cannot change."""
_STAY = ("lease_hours", "idle_minutes", "sleep_minutes", "wakes")
_RAN = ("launcher", "device", "image", "image_digest", "vllm_version")


def visible_to(user: User) -> QuerySet[Recipe]:
    """Those that the user may start: one's own and what is published; an admin: all."""
    return Recipe.objects.all() if user.is_admin else Recipe.objects.filter(Q(owner=user) | Q(published=True))


def owned_by(user: User) -> QuerySet[Recipe]:
    """Those that the user may change: an admin's are all."""
    return Recipe.objects.all() if user.is_admin else Recipe.objects.filter(owner=user)


def from_engine(owner: User, engine: Engine, given: Mapping[str, Any]) -> Recipe:
    """What the engine was started with. `given`: name, and what else `change` takes. Raises FieldError, CallerError."""
    columns = {name: getattr(engine, name) for name in (*FIXED, "tokenizer_revision", *_RAN, *_STAY)}
    recipe = _make(owner, columns, given)
    if not engine.kind:  # started by an older portal
        Engine.objects.filter(pk=engine.pk).update(kind=recipe.kind)
    return recipe


def from_order(owner: User, order: Order, given: Mapping[str, Any]) -> Recipe:
    """Checked as a start is, with the order's token; nothing of the token is kept. Raises as `from_engine`."""
    checked = preflight.check(order)
    columns = {name: getattr(order, name) for name in (*FIXED, *_STAY)}
    columns |= {name: getattr(checked, name) for name in ("model", "revision", "tokenizer", "tokenizer_revision")}
    columns |= {name: getattr(checked, name) for name in ("launcher", "device", "image")}
    columns["adapters"] = adapters.rows(checked.adapters)
    return _make(owner, columns, given)


def change(recipe: Recipe, by: User, given: Mapping[str, Any]) -> None:
    """`given`: some of name, notes, published, lease_hours, idle_minutes, sleep_minutes, wakes. Raises FieldError."""
    if given.get("published") and not recipe.published and not by.is_admin:
        raise FieldError("published", "Only an admin can publish a recipe.")
    for name, value in given.items():
        setattr(recipe, name, value)
    refuse_taken_name(recipe)
    try:
        with transaction.atomic():
            recipe.save(update_fields=list(given) if recipe.pk else None)
    except IntegrityError:  # of two at once
        raise _name_taken() from None


def remove(recipe: Recipe, by: User) -> None:
    """Its engines stay. What concerns others is noted."""
    if recipe.owner_id != by.pk or recipe.published:
        note(by, recipe, "removed")
    recipe.delete()


def order_of(recipe: Recipe, wish: Mapping[str, Any]) -> Order:
    """What `starting.start` takes. `wish`: fields of Order that are not fixed; how long it stays is as the recipe says
    where the wish does not."""
    fixed = {name: getattr(recipe, name) for name in (*FIXED, "tokenizer_revision")}
    fixed["adapters"] = adapters.of(recipe.adapters)
    stay = {name: getattr(recipe, name) for name in _STAY}
    return Order(**{**stay, **wish, **fixed, "image": allowed_image(recipe), "recipe": recipe.pk})


def is_same(recipe: Recipe, order: Order) -> bool:
    """Whether the order asks for what the recipe fixes, and for nothing else."""
    asked = {name: getattr(order, name) for name in FIXED} | {"adapters": adapters.rows(order.adapters)}
    return all(getattr(recipe, name) == asked[name] for name in FIXED)


def again(engine: Engine, order: Order) -> Order:
    """An order for what the engine was: of its recipe, where it has one and still asks for what that fixes."""
    recipe = engine.recipe
    if recipe is None or not is_same(recipe, order):
        return order
    fixed = {"tokenizer_revision": recipe.tokenizer_revision, "image": allowed_image(recipe), "recipe": recipe.pk}
    return replace(order, **fixed)


def allowed_image(recipe: Recipe) -> str:
    """The recipe's own, where the admin allows it (`recipe_images`): its id, which is that image and no other, or its
    name. "": today's."""
    allowed = get_config().recipe_images
    return next((image for image in (recipe.image_digest, recipe.image) if image and image in allowed), "")


def learn(engine: Engine) -> None:
    """A recipe that was made from options does not know what runs it until its first engine is ready."""
    if engine.recipe_id is None:
        return
    unknown = Recipe.objects.filter(pk=engine.recipe_id, image_digest="", vllm_version="")
    unknown.update(**{name: getattr(engine, name) for name in _RAN})


def named(user: User, name: str) -> Recipe | None:
    """By its id or its name: one's own before a published one. None: there is none, or that is no name."""
    if not name.isprintable():
        return None
    if name.isdecimal() and len(name) < 19 and (found := visible_to(user).filter(pk=int(name)).first()):
        return found
    own = Recipe.objects.filter(owner=user, name=name).first()
    return own or Recipe.objects.filter(published=True, name=name).first()


def _make(owner: User, columns: dict[str, Any], given: Mapping[str, Any]) -> Recipe:
    with transaction.atomic():
        User.objects.select_for_update().get(pk=owner.pk)  # two at once cannot both be the last
        if Recipe.objects.filter(owner=owner).count() >= MOST:
            raise CallerError(f"{owner} has {MOST} recipes, which is as many as allowed; delete one first.")
        recipe = Recipe(owner=owner, kind=kind_of(columns), **columns)
        change(recipe, owner, given)
    return recipe


def refuse_taken_name(recipe: Recipe) -> None:
    """Raises FieldError."""
    same = Q(owner=recipe.owner) if recipe.owner else Q(pk=None)
    if recipe.published:
        same |= Q(published=True)
    if Recipe.objects.filter(same, name=recipe.name).exclude(pk=recipe.pk).exists():
        raise _name_taken()


def _name_taken() -> FieldError:
    return FieldError("name", "There is a recipe of this name already.")
