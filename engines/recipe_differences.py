"""Where a start from a recipe is not what the recipe was made with: sentences for whoever starts it."""

from dataclasses import dataclass

from engines.launchers.choice import chosen_name
from engines.models import Engine
from engines.recipe_models import Recipe
from engines.recipes import allowed_image
from engines.start_options import StartOptions
from vllm_portal.config import get_config


@dataclass(frozen=True)
class Ran:
    """What runs an engine, or would. "": not known."""

    launcher: str
    device: str
    image: str
    image_digest: str
    vllm_version: str


class Today:
    """What a start would get now. Remembers what it has looked up."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], Ran] = {}

    def of(self, recipe: Recipe) -> Ran:
        launcher = chosen_name()
        image = (allowed_image(recipe) or get_config().docker_image) if launcher == "docker" else ""
        return self.last(launcher, "cpu" if launcher == "simulator" else get_config().device, image)

    def last(self, launcher: str, device: str, image: str) -> Ran:
        """What ran last of that name; an image that is named by its id is that id."""
        if (launcher, image) not in self._seen:
            last = Engine.objects.filter(launcher=launcher, image=image, ready_at__isnull=False).exclude(
                image_digest="", vllm_version=""
            )
            found = last.order_by("-ready_at").values_list("image_digest", "vllm_version").first() or ("", "")
            digest = image if image.startswith("sha256:") else found[0]
            self._seen[launcher, image] = Ran(launcher, device, image, digest, found[1])
        return self._seen[launcher, image]


def before(recipe: Recipe, today: Today) -> list[str]:
    """Of a start now, as far as that is known: what ran last is what is asked for its digest and version."""
    return _unfixed(recipe) + _apart(recipe, today.of(recipe))


def of(engine: Engine, today: Today) -> list[str]:
    """Of an engine that was started from a recipe that there still is; [] for any other."""
    recipe = engine.recipe
    if recipe is None:
        return []
    ran: Ran | Engine = engine
    if not engine.image_digest and not engine.vllm_version:
        ran = today.last(engine.launcher, engine.device, engine.image)
    told = _unfixed(recipe) + _apart(recipe, ran)
    if recipe.revision != engine.revision:
        told.append(
            f"The model is that of {engine.revision or 'an unknown commit'}, the recipe's of {recipe.revision}."
        )
    return told


def _unfixed(recipe: Recipe) -> list[str]:
    if recipe.revision or recipe.model.startswith("/"):
        return []
    return ["The recipe does not know the model's commit: the model is started as it is by then."]


def _apart(recipe: Recipe, ran: "Ran | StartOptions") -> list[str]:
    if recipe.launcher != ran.launcher or recipe.device != ran.device:
        now, then = f"{ran.launcher} on {ran.device}", f"{recipe.launcher} on {recipe.device}"
        return [f"Engines are run by {now} now; the recipe was made with {then}."]
    if recipe.image_digest and ran.image_digest:
        if recipe.image_digest == ran.image_digest:
            return []
        return [
            f"The image is not the recipe's: {ran.image} is {_short(ran.image_digest)} now, and the recipe was made "
            f"with {_short(recipe.image_digest)} of {recipe.image}{_vllm(recipe)}. An admin can allow that one "
            "(recipe_images)."
        ]
    if recipe.vllm_version and ran.vllm_version and recipe.vllm_version != ran.vllm_version:
        return [f"vLLM is {ran.vllm_version} now; the recipe was made with {recipe.vllm_version}."]
    return []


def _vllm(recipe: Recipe) -> str:
    return f" (vLLM {recipe.vllm_version})" if recipe.vllm_version else ""


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
