"""Names of models that the form of a start completes: only such as the user may know of anyway."""

from dataclasses import dataclass

from accounts.models import User
from engines import model_cache, recipes
from engines.models import Engine

MOST = 100
"""Of each source."""


@dataclass(frozen=True)
class Suggestion:
    model: str
    told: str
    """Why it is there, in a few words."""


def models_for(user: User) -> list[Suggestion]:
    """What the user's engines ran, or such as are shared with the user; what the user's recipes and the published ones
    start; and what this machine's cache holds: all of it for admins, for others only which of those that is. Else it
    would tell who uses what, private repositories included."""
    used = Engine.objects.usable_by(user).order_by("model").values_list("model", flat=True).distinct()
    told: dict[str, list[str]] = {model: [] for model in used[:MOST]}
    for name, model in recipes.visible_to(user).order_by("name").values_list("name", "model")[:MOST]:
        told.setdefault(model, []).append(f"recipe {name}")
    cached = model_cache.names()
    if user.is_admin:
        told |= {model: [] for model in sorted(cached - told.keys())[:MOST]}
    for model in cached & told.keys():
        told[model].append("in the cache")
    return [Suggestion(model, ", ".join(said)) for model, said in sorted(told.items())]
