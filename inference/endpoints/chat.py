"""OpenAI's chat completions."""

from typing import Any

from inference.body import MAX_CHOICES, Body
from inference.endpoints.generation import Generation, ask_for_counts, examine_choices
from inference.routing import Route

# What a chat's prompt is made of.
_RENDERED = (
    "messages",
    "tools",
    "documents",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
)


class ChatCompletions(Generation):
    path = "/v1/chat/completions"
    most_choices = MAX_CHOICES
    limit_fields = ("max_completion_tokens", "max_tokens")
    prompt_fields = ("messages",)

    def examine(self, body: Body) -> None:
        Generation.examine(self, body)
        examine_choices(body)
        ask_for_counts(body)

    def slices(self, body: Body) -> bool:
        return body.stream and body.max_tokens is None and body.choices == 1

    def token_counts(self, body: Body, route: Route) -> list[dict[str, Any] | int]:
        fields = body.fields
        return [{"model": route.model, **{name: fields[name] for name in _RENDERED if name in fields}}]


CHAT = ChatCompletions()
