"""The engine's tokenizer: nothing is computed by the model, and nothing is charged."""

from inference.body import Body
from inference.endpoints.base import Endpoint
from inference.sse import Usage


class Free(Endpoint):
    """Admitted with a reservation of 0, so that a caller who no longer counts is refused."""

    counts = False

    def prompt_bound(self, body: Body, max_model_len: int) -> int:
        return 0

    def usage(self, data: bytes) -> Usage | None:
        return Usage()

    def token_counts(self, body: Body, route: object) -> list[dict[str, object] | int] | None:
        return []


class Tokenize(Free):
    path = "/tokenize"
    prompt_fields = ("messages", "prompt")


class Detokenize(Free):
    path = "/detokenize"
