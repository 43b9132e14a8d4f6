"""What all endpoints that generate have in common: how much they may, and where it is said."""

import msgspec

from inference.body import MAX_CHOICES, MOST_TOKENS, Body
from inference.endpoints.base import Endpoint
from inference.errors import InvalidRequest


class Generation(Endpoint):
    generates = True
    most_choices = 1
    limit_fields: tuple[str, ...] = ("max_tokens",)
    """Where a client may say how many tokens it wants; the first that is there counts."""

    def examine(self, body: Body) -> None:
        body.generates = True
        if "stream" in body.fields:
            body.stream = bool(body.value("stream", bool))
        if "service_tier" in body.fields:
            body.batch = body.value("service_tier", str) == "flex"
        for name in self.limit_fields:
            if name in body.fields and (limit := body.number(name, 0, MOST_TOKENS)) is not None:
                body.max_tokens, body.max_tokens_field = limit, name
                break
        else:
            body.max_tokens_field = self.limit_fields[-1]

    def wanted(self, body: Body, max_model_len: int) -> int:
        # An engine asked for no token generates one all the same.
        each = max_model_len if body.max_tokens is None else min(max(body.max_tokens, 1), max_model_len)
        return each * body.choices

    def limit(self, body: Body, granted: int, max_model_len: int) -> None:
        each = granted // body.choices
        asked = body.max_tokens
        if each >= (max_model_len if asked is None else min(asked, max_model_len)):
            return  # the context ends first, or the engine says what is wrong with so many
        body.set(body.max_tokens_field, each)
        least = body.fields.get("min_tokens")
        if least is not None and _above(least, each) and not (asked is not None and _above(least, asked)):
            body.set("min_tokens", each)  # or the engine would refuse what the client asked for rightly


def examine_choices(body: Body) -> None:
    """`n`, and the `best_of` of old clients, once it is known how many prompts there are. Raises InvalidRequest."""
    if "n" in body.fields:
        body.choices_per_prompt = body.number("n", 1, MAX_CHOICES) or 1
    if "best_of" in body.fields and (body.number("best_of", 1, MAX_CHOICES) or 1) > body.choices_per_prompt:
        raise InvalidRequest("best_of above n is not supported.", param="best_of", code="unsupported_parameter")
    body.choices = body.choices_per_prompt * body.prompts


def ask_for_counts(body: Body) -> None:
    """Counted in each chunk, a stream that is cut off has an exact count. What the client did not ask for is taken out
    of the answer again."""
    if not body.stream:
        return
    options = body.value("stream_options", dict) or {}
    body.keep_usage = options.get("include_usage") is True
    body.keep_continuous = body.keep_usage and options.get("continuous_usage_stats") is True
    body.set("stream_options", {**options, "include_usage": True, "continuous_usage_stats": True})


def _above(raw: msgspec.Raw, most: int) -> bool:
    try:
        return msgspec.json.decode(raw, type=int) > most
    except msgspec.DecodeError:
        return False
