"""How prompts that are texts or token ids are counted by the engine's tokenizer."""

from typing import Any

import msgspec

from inference.body import Body
from inference.routing import Route

MAX_COUNTED = 64


def prompt_counts(body: Body, field: str, route: Route) -> list[dict[str, Any] | int] | None:
    """One request a text. Token ids are counted here. None: they are too many to ask for."""
    raw = body.fields.get(field)
    if raw is None:
        return []
    prompts = body.items(field) if body.prompts > 1 else [raw]
    if prompts is None or len(prompts) > MAX_COUNTED:
        return None
    return [_count(bytes(prompt), body, route) for prompt in prompts]


def text_counts(texts: list[Any], body: Body, route: Route) -> list[dict[str, Any] | int] | None:
    """One request a text; None: some are no texts, or they are too many to ask for."""
    if len(texts) > MAX_COUNTED or not all(isinstance(text, str) for text in texts):
        return None
    return [_request(text, body, route) for text in texts]


def _count(raw: bytes, body: Body, route: Route) -> dict[str, Any] | int:
    if not raw.startswith(b"["):
        return _request(msgspec.Raw(raw), body, route)
    inner = msgspec.json.decode(raw, type=list[msgspec.Raw])
    if inner and bytes(inner[0])[:1] == b'"':  # a list of one text
        return _request(inner[0], body, route)
    return len(inner)


def _request(text: Any, body: Body, route: Route) -> dict[str, Any]:
    request = {"model": route.model, "prompt": text}
    if "add_special_tokens" in body.fields:
        request["add_special_tokens"] = body.fields["add_special_tokens"]
    return request
