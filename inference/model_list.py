"""The models that a caller may use, as OpenAI's clients and as Anthropic's expect them. Pure."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from inference.routing import Route


def models_of(routes: list[Route], aliases: Collection[str], anthropic: bool) -> dict[str, dict[str, Any]]:
    """Model objects by name, of models first and then of `aliases`. Engines of one name are one entry that names them;
    a model whose name is an alias is what the alias says."""
    models: dict[str, dict[str, Any]] = {}
    routes = sorted(routes, key=lambda route: (route.created, route.name))
    for route in routes:
        if route.model not in aliases:
            _add(models, route.model, route, anthropic)
    for alias in sorted(aliases):
        for route in routes:
            if alias in route.meant:
                _add(models, alias, route, anthropic)
    return models


def _add(models: dict[str, dict[str, Any]], name: str, route: Route, anthropic: bool) -> None:
    entry = models.get(name)
    if entry is None:
        entry = models[name] = _anthropic(name, route) if anthropic else _openai(name, route)
    length = "max_input_tokens" if anthropic else "max_model_len"
    entry[length] = min(entry[length], route.max_model_len)  # which of them answers is not known beforehand
    entry["engines"].append(route.name)


def listed(models: Mapping[str, Any], anthropic: bool) -> dict[str, Any]:
    data = list(models.values())
    if not anthropic:
        return {"object": "list", "data": data}
    names = list(models)
    ends = (names[0], names[-1]) if names else (None, None)
    return {"data": data, "has_more": False, "first_id": ends[0], "last_id": ends[1]}


def _openai(name: str, route: Route) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": route.created,
        "owned_by": "vllm-portal",
        "max_model_len": route.max_model_len,
        "engines": [],
    }


def _anthropic(name: str, route: Route) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(route.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "max_input_tokens": route.max_model_len,
        "engines": [],
    }
