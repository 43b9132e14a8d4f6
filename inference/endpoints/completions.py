"""OpenAI's completions: a prompt as text or token ids, or several."""

from typing import Any

from inference.body import Body
from inference.endpoints.counting import prompt_counts
from inference.endpoints.generation import Generation, ask_for_counts, examine_choices
from inference.routing import Route

DEFAULT_MAX_TOKENS = 16  # OpenAI's and vLLM's, without max_tokens


class Completions(Generation):
    path = "/v1/completions"
    most_choices = None  # for each of its prompts some
    prompt_fields = ("prompt",)

    def examine(self, body: Body) -> None:
        super().examine(body)
        if "max_tokens" not in body.fields:
            body.max_tokens = DEFAULT_MAX_TOKENS
        body.prompts = body.count_prompts("prompt")
        examine_choices(body)
        ask_for_counts(body)

    def token_counts(self, body: Body, route: Route) -> list[dict[str, Any] | int] | None:
        return prompt_counts(body, "prompt", route)


COMPLETIONS = Completions()
