"""How near a query and a document are, as the cosine of two made-up vectors: rerank and score. Pure."""

import time
from dataclasses import dataclass
from typing import Any

from engines.simulator import tokens
from engines.simulator.errors import bad_value, invalid
from engines.simulator.requests import Body, integer
from engines.simulator.wire import unit_vector

_SIDES = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))


@dataclass(frozen=True, slots=True)
class Compared:
    """`pairs`: (query, document, score), as they came. `tokens`: each text counts once."""

    pairs: list[tuple[str, str, float]]
    tokens: int
    most: int
    """How many results are wanted."""


def read_rerank(body: Body) -> Compared:
    """Raises ApiError."""
    query, documents = _texts(body, "query"), _texts(body, "documents")
    return _compare(query, documents, integer(body, "top_n") or len(documents))


def read_score(body: Body) -> Compared:
    """Raises ApiError."""
    first, second = next((sides for sides in _SIDES if all(side in body for side in sides)), _SIDES[0])
    left, right = _texts(body, first), _texts(body, second)
    if len(left) not in (1, len(right)):
        raise bad_value("Input lengths must be either 1:1, 1:N or N:N", None)
    return _compare(left, right, len(right))


def _compare(left: list[str], right: list[str], most: int) -> Compared:
    queries = left * len(right) if len(left) == 1 else left
    pairs = [(one, other, _near(one, other)) for one, other in zip(queries, right, strict=True)]
    return Compared(pairs, sum(tokens.count_prompt(text) for text in [*left, *right]), most)


def _near(one: str, other: str) -> float:
    return sum(a * b for a, b in zip(unit_vector(one), unit_vector(other), strict=True))


def _texts(body: Body, name: str) -> list[str]:
    given = body.get(name)
    if given is None:
        raise invalid(f"body.{name}", "missing", "Field required", dict(body))
    many = given if isinstance(given, list) else [given]
    if not all(isinstance(text, str) for text in many):
        raise invalid(f"body.{name}", "string_type", "Input should be a valid string", given)
    if not many:
        raise bad_value("At least one text element must be given", None)
    return many


def rerank_body(request_id: str, model: str, compared: Compared) -> dict[str, Any]:
    results = [
        {"index": index, "document": {"text": document, "multi_modal": None}, "relevance_score": score}
        for index, (_, document, score) in enumerate(compared.pairs)
    ]
    results.sort(key=lambda result: -result["relevance_score"])  # type: ignore[operator]
    usage = {"prompt_tokens": compared.tokens, "total_tokens": compared.tokens}
    return {"id": f"score-{request_id}", "model": model, "usage": usage, "results": results[: compared.most]}


def score_body(request_id: str, model: str, compared: Compared) -> dict[str, Any]:
    data = [{"index": index, "object": "score", "score": score} for index, (_, _, score) in enumerate(compared.pairs)]
    usage = {
        "prompt_tokens": compared.tokens, "total_tokens": compared.tokens, "completion_tokens": 0,
        "prompt_tokens_details": None, "completion_tokens_details": None,
    }  # fmt: skip
    head = {"id": f"score-{request_id}", "object": "list", "created": int(time.time())}
    return {**head, "model": model, "data": data, "usage": usage}
