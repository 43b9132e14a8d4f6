"""The models that a caller may use, as OpenAI's clients and as Anthropic's expect them. Pure."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from inference.routing import Route


def models_of(
    routes: list[Route], aliases: Collection[str], anthropic: bool, user_id: int
) -> dict[str, dict[str, Any]]:
    """Model objects by name: of models and adapters first, then of `aliases`, then of what the user calls adapters of
    engines of their own. Engines of one name are one entry that names them; a name counts as it does in requests."""
    models: dict[str, dict[str, Any]] = {}
    routes = sorted(routes, key=lambda route: (route.created, route.name))
    for route in routes:
        if route.title not in aliases:
            _add(models, route.title, route, anthropic)
    for alias in sorted(aliases):
        for route in routes:
            if alias in route.meant:
                _add(models, alias, route, anthropic)
    taken = {*models, *(route.name for route in routes)}
    own = [route for route in routes if route.own_name and route.owner_id == user_id and route.own_name not in taken]
    for route in own:
        if len({one.title for one in own if one.own_name == route.own_name}) == 1:
            _add(models, route.own_name, route, anthropic)
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
    } | ({"parent": route.parent, "root": route.adapter} if route.adapter else {})


def _anthropic(name: str, route: Route) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(route.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "max_input_tokens": route.max_model_len,
        "engines": [],
    }
