"""Vectors and scores: endpoints that read and generate nothing."""

from typing import Any

from inference.body import Body
from inference.endpoints.base import TEMPLATE_TOKENS, Endpoint
from inference.endpoints.counting import prompt_counts
from inference.routing import Route


class Embeddings(Endpoint):
    path = "/v1/embeddings"
    prompt_fields = ("input", "messages")

    def examine(self, body: Body) -> None:
        body.prompts = body.count_prompts("input" if "input" in body.fields else "messages")

    def token_counts(self, body: Body, route: Route) -> list[dict[str, Any] | int] | None:
        return prompt_counts(body, "input", route) if "input" in body.fields else None


class Scoring(Endpoint):
    """Each pair of a query and a document is a prompt of its own, so a query may count as often as there are
    documents."""

    pairs: tuple[tuple[str, str], ...] = ()
    """The names under which the two sides may come."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.prompt_fields = tuple({name for pair in self.pairs for name in pair})

    def examine(self, body: Body) -> None:
        body.prompts = max((_length(body, name) for name in self.prompt_fields), default=1)

    def prompt_bound(self, body: Body, max_model_len: int) -> int:
        longest = max_model_len * body.prompts
        if not body.text_only:
            return longest
        once = sum(len(bytes(body.fields[name])) for name in self.prompt_fields if _length(body, name) == 1)
        return min(body.size + (once + TEMPLATE_TOKENS) * body.prompts, longest)


class Rerank(Scoring):
    pairs = (("query", "documents"),)


class Score(Scoring):
    pairs = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))


def _length(body: Body, name: str) -> int:
    """How many texts a side has; 0: it is not there."""
    if name not in body.fields:
        return 0
    items = body.items(name)
    return 1 if items is None else len(items)
