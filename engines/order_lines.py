"""What stands in the form of a start, as lines for a terminal. A token is never written into them: it would end in the
shell's history."""

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from engines import recipes
from engines.recipe_models import Recipe

EXAMPLE = "facebook/opt-125m"
_NUMBERS = {
    "max_model_len", "tensor_parallel_size", "gpu_memory_utilization", "seed", "lease_hours", "sleep_minutes",
    "idle_minutes",
}  # fmt: skip


@dataclass(frozen=True)
class Lines:
    portal: str
    curl: str


def of(given: Mapping[str, Any], recipe: Recipe | None, portal_url: str) -> Lines:
    """`given`: what the form sends, as the API takes it, half-typed numbers and all. `recipe`: the one that it is, with
    nothing of it changed."""
    order = {name: _value(name, value) for name, value in given.items() if value not in ("", None, [], False)}
    has_token = bool(order.pop("hugging_face_hub_token", ""))
    if recipe is None:
        words, path = ["portal", "launch", str(order.pop("model", EXAMPLE))], "engines"
    else:
        order = {name: value for name, value in order.items() if name not in recipes.FIXED}
        words, path = ["portal", "launch", "--recipe", recipe.name], f"recipes/{recipe.pk}/start"
    if "adapters" in order:
        order["adapters"] = [{name: text for name, text in one.items() if text} for one in order["adapters"]]
    body = order if recipe else {"model": words[-1], **order}
    if has_token:
        body = {**body, "hugging_face_hub_token": "…"}
    for name, value in order.items():
        if name not in ("adapters", "shared"):
            words += [f"--{name.replace('_', '-')}", str(value)]
    for adapter in order.get("adapters", []):
        words += ["--adapter", _adapter(**adapter)]
    words += ["--shared"] * ("shared" in order) + ["--hf-token", "-"] * has_token
    curl = (
        f'curl {portal_url}/api/v1/{path} -H "Authorization: Bearer $TOKEN" '
        f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )
    return Lines(shlex.join(words), curl)


def _value(name: str, value: Any) -> Any:
    if name == "shared":
        return True
    for kind in (int, float) if name in _NUMBERS else ():
        with suppress(ValueError):
            return kind(value)
    return value


def _adapter(name: str = "", model: str = "", revision: str = "") -> str:
    return f"{name}={model}{'@' if revision else ''}{revision}"
