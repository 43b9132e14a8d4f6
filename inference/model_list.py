"""The models that a caller may use, as OpenAI's clients and as Anthropic's expect them. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from inference.routing import Route


def models_of(routes: list[Route], anthropic: bool) -> dict[str, dict[str, Any]]:
    """Model objects by name; engines of one model are one entry that names them."""
    models: dict[str, dict[str, Any]] = {}
    for route in sorted(routes, key=lambda route: (route.created, route.name)):
        entry = models.get(route.model)
        if entry is None:
            entry = models[route.model] = _anthropic(route) if anthropic else _openai(route)
        entry["engines"].append(route.name)
    return models


def listed(models: Mapping[str, Any], anthropic: bool) -> dict[str, Any]:
    data = list(models.values())
    if not anthropic:
        return {"object": "list", "data": data}
    names = list(models)
    ends = (names[0], names[-1]) if names else (None, None)
    return {"data": data, "has_more": False, "first_id": ends[0], "last_id": ends[1]}


def _openai(route: Route) -> dict[str, Any]:
    return {
        "id": route.model,
        "object": "model",
        "created": route.created,
        "owned_by": "vllm-portal",
        "max_model_len": route.max_model_len,
        "engines": [],
    }


def _anthropic(route: Route) -> dict[str, Any]:
    return {
        "type": "model",
        "id": route.model,
        "display_name": route.model,
        "created_at": datetime.fromtimestamp(route.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "max_input_tokens": route.max_model_len,
        "engines": [],
    }
