"""What an endpoint of an engine is to the portal."""

import logging
from typing import Any, Protocol

from inference.body import Body, read
from inference.errors import ApiError
from inference.routing import Route
from inference.sse import BadStream, Filter, Usage, answer_usage

logger = logging.getLogger(__name__)

TEMPLATE_TOKENS = 256


class StreamFilter(Protocol):
    """One stream on its way from the engine to the client.

    `done`: the event that ends a stream came, whatever it was. `failed`: an event said that the engine failed.
    `final`: the count is the engine's last word. `counts_along`: until then `usage()` is the engine's own count so far;
    else it is what the portal saw go by, which is about as much, and knows the prompt only where the engine told it."""

    done: bool
    failed: bool
    final: bool
    counts_along: bool

    def feed(self, data: bytes) -> bytes:
        """What to pass on now. Raises BadStream."""

    def usage(self) -> Usage | None:
        """None: nothing was counted yet. Raises BadStream."""

    def finish(self) -> bytes:
        """The bytes of an event that never ended."""


def counts(stream: StreamFilter) -> Usage | None:
    """A stream's latest counts, None where there are none or they are no counts."""
    try:
        return stream.usage()
    except BadStream as error:
        logger.error("an engine's count cannot be read: %s", error)
        return None


def seen(stream: StreamFilter) -> tuple[int, int]:
    """Prompt and generated tokens so far."""
    usage = counts(stream) or Usage()
    return usage.prompt_tokens, usage.generated_tokens


class Endpoint:
    """One path of an engine: what its bodies ask for, and what its answers cost. Stateless: one serves all requests."""

    path = ""
    """At the engine."""
    generates = False
    """Its answers hold generated tokens."""
    most_choices: int | None = 0
    """How many of them one request may ask for, each up to the model's context; None: any number."""
    counts = True
    """What it reads is charged. An endpoint that does not count must still be admitted, with a reservation of 0."""
    prompt_fields: tuple[str, ...] = ()
    """The fields that hold the prompt: what may make it longer than its bytes, or make the engine fetch something."""
    identity_headers: tuple[bytes, ...] = (b"x-request-id",)
    """The headers of an answer that name its request."""
    count_path = "/tokenize"
    """Where the requests of `token_counts` go, and the field of their answers that holds the count."""
    count_field = "count"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    def parse(self, data: bytes) -> Body:
        """Raises InvalidRequest that names the field."""
        body = read(data, self.prompt_fields)
        self.examine(body)
        return body

    def examine(self, body: Body) -> None:
        """Reads what this endpoint's bodies have beyond `model`. Raises InvalidRequest."""

    def prompt_bound(self, body: Body, max_model_len: int) -> int:
        """An upper bound of the prompt's tokens, without a tokenizer: a token is at least a byte of the body, a chat
        template adds some, and no prompt is longer than the model's context."""
        longest = max_model_len * body.prompts
        return min(body.size + TEMPLATE_TOKENS * body.prompts, longest) if body.text_only else longest

    def wanted(self, body: Body, max_model_len: int) -> int:
        """The generated tokens to reserve, for all choices together."""
        return 0

    def slices(self, body: Body) -> bool:
        """Whether a stream may reserve as it goes: its events tell how many tokens there are, and it can be ended."""
        return False

    def limit(self, body: Body, granted: int, max_model_len: int) -> None:
        """Tells the engine to stop where the reservation of `granted` generated tokens ends."""

    def stream(self, body: Body) -> StreamFilter:
        """For one answer that comes as events."""
        return Filter(
            keep_usage=body.keep_usage,
            keep_continuous=body.keep_continuous,
            choices=body.choices,
            choices_per_prompt=body.choices_per_prompt,
            known=body.known,
        )

    def usage(self, data: bytes) -> Usage | None:
        """Of a whole answer; None: it tells none."""
        return answer_usage(data)

    def token_counts(self, body: Body, route: Route) -> list[dict[str, Any]] | None:
        """Requests to `count_path` whose answers' `count_field`s add up to the prompt's tokens; a whole number among
        them is a count that needs no request. None: only the engine's answer will tell."""
        return None

    def error(self, error: ApiError) -> bytes:
        """The error as this endpoint's clients know errors."""
        return error.body()

    def error_event(self, error: ApiError) -> bytes:
        """The same in mid-stream."""
        return b"data: %b\n\n" % self.error(error)
