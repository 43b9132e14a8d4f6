"""What clients that people have can do with the portal, each with nothing changed but the address and the key.

A claim takes a `Served` and is tried against the stand-in and against a real vLLM. Claims about what a model can do
(call a tool, keep to a schema) are `ABLE`: the stand-in has no model.
"""

import asyncio
import json
import subprocess
from dataclasses import dataclass
from typing import Literal

import anthropic
import openai
import pytest
import requests
from pydantic import BaseModel, SecretStr


@dataclass(frozen=True)
class Served:
    """A portal with an engine for `model`. `key` is the user's."""

    url: str
    key: str
    model: str

    def openai(self, path: str = "/v1", **options) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + path, **{"api_key": self.key, "max_retries": 0, **options})

    def anthropic(self, **options) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, **{"api_key": self.key, "max_retries": 0, **options})

    def langchain(self, **options):
        from langchain_openai import ChatOpenAI  # here, since it takes a second, and each test process reads this file

        key = SecretStr(self.key)
        return ChatOpenAI(base_url=self.url + "/v1", api_key=key, model=self.model, max_retries=0, **options)

    def no_spaces(self) -> dict[str, int]:
        """A bias against the spaces that a model of random weights would write into its JSON until its end."""
        answer = requests.post(
            self.url + "/tokenize",
            json={"model": self.model, "prompt": "\n\r\t ", "add_special_tokens": False},
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=60,
        )
        return dict.fromkeys(map(str, answer.json()["tokens"]), -100)


HELLO = [{"role": "user", "content": "Hello there"}]
TOWNS = {
    "type": "object",
    "properties": {"town": {"enum": ["Ulm", "Bonn"]}},
    "required": ["town"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather", "parameters": TOWNS, "strict": True},
}


class Verdict(BaseModel):
    verdict: Literal["yes", "no"]


# The package openai


def openai_chats(served: Served) -> None:
    with served.openai() as client:
        answer = client.chat.completions.create(model=served.model, messages=HELLO, max_tokens=5)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.completion_tokens == 5
    assert answer._request_id


def openai_streams(served: Served) -> None:
    with served.openai() as client:
        chunks = list(client.chat.completions.create(model=served.model, messages=HELLO, max_tokens=5, stream=True))
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def openai_streams_with_usage(served: Served) -> None:
    with served.openai() as client:
        asked = {"model": served.model, "messages": HELLO, "max_tokens": 5, "stream_options": {"include_usage": True}}
        *chunks, last = client.chat.completions.create(stream=True, **asked)
    assert (last.choices, last.usage.completion_tokens) == ([], 5)
    assert all(chunk.usage is None for chunk in chunks)


def openai_completes(served: Served) -> None:
    with served.openai("") as client:  # as the root of the old service was used
        answer = client.completions.create(model=served.model, prompt=["One", "Two"], max_tokens=3)
    assert len(answer.choices) == 2


def openai_asks_many_at_once(served: Served) -> None:
    async def ask() -> list:
        async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key=served.key, max_retries=0) as client:
            asked = {"model": served.model, "messages": HELLO, "max_tokens": 4}
            return await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(8)))

    assert [answer.usage.completion_tokens for answer in asyncio.run(ask())] == [4] * 8


def openai_responds(served: Served) -> None:
    with served.openai() as client:
        answer = client.responses.create(model=served.model, input="Hello there", max_output_tokens=16, store=False)
    assert answer.output_text
    assert answer.usage.output_tokens == 16


def openai_streams_a_response(served: Served) -> None:
    asked = {"model": served.model, "input": "Hello there", "instructions": "Be brief.", "max_output_tokens": 16}
    with served.openai() as client:
        events = list(client.responses.create(stream=True, store=False, **asked))
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    told = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert told == events[-1].response.output_text


def openai_lists_models(served: Served) -> None:
    with served.openai() as client:
        assert served.model in [model.id for model in client.models.list()]
        assert client.models.retrieve(served.model).id == served.model


def openai_knows_the_errors(served: Served) -> None:
    asked = {"messages": HELLO, "max_tokens": 1}
    with served.openai() as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="nobody/nothing", **asked)
        assert missing.value.code == "model_not_found"
        long_prompt = [{"role": "user", "content": "word " * 5000}]
        with pytest.raises(openai.BadRequestError) as long:
            client.chat.completions.create(model=served.model, messages=long_prompt)
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=served.model, temperature=-1, **asked)
        with pytest.raises(openai.NotFoundError) as vectors:
            client.embeddings.create(model=served.model, input="Hello")
        assert isinstance(vectors.value.code, str)
    with served.openai(api_key="sk-nobody") as stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.chat.completions.create(model=served.model, **asked)
    assert refused.value.code == "invalid_api_key"


def openai_calls_a_tool(served: Served) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    asked = {"model": served.model, "messages": HELLO, "tools": [WEATHER], "tool_choice": choice, "max_tokens": 90}
    asked["logit_bias"] = served.no_spaces()
    with served.openai() as client:
        (call,) = client.chat.completions.create(temperature=0, **asked).choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)["town"] in ("Ulm", "Bonn")) == ("weather", True)
        pieces = [
            chunk.choices[0].delta.tool_calls[0].function.arguments or ""
            for chunk in client.chat.completions.create(temperature=0, stream=True, **asked)
            if chunk.choices and chunk.choices[0].delta.tool_calls
        ]
    assert json.loads("".join(pieces)) == json.loads(call.function.arguments)


def openai_keeps_to_a_schema(served: Served) -> None:
    with served.openai() as client:
        answer = client.chat.completions.parse(
            model=served.model, messages=HELLO, response_format=Verdict, max_tokens=60
        )
        assert answer.choices[0].message.parsed.verdict in ("yes", "no")
        guided = {"structured_outputs": {"choice": ["tea", "milk"]}}
        chosen = client.chat.completions.create(model=served.model, messages=HELLO, extra_body=guided)
    assert chosen.choices[0].message.content in ("tea", "milk")


def openai_sees_logprobs(served: Served) -> None:
    with served.openai() as client:
        asked = {"model": served.model, "messages": HELLO, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
        content = client.chat.completions.create(**asked).choices[0].logprobs.content
    assert [len(token.top_logprobs) >= 2 for token in content] == [True] * 3


# The package anthropic


def anthropic_asks(served: Served) -> None:
    with served.anthropic() as client:
        message = client.messages.create(model=served.model, messages=HELLO, max_tokens=5, system="Be brief.")
    assert (message.role, message.stop_reason, message.usage.output_tokens) == ("assistant", "max_tokens", 5)
    assert message.content[0].text


def anthropic_streams(served: Served) -> None:
    with (
        served.anthropic() as client,
        client.messages.stream(model=served.model, messages=HELLO, max_tokens=5) as stream,
    ):
        told = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert message.content[0].text == told
    assert (message.usage.output_tokens, message.stop_reason) == (5, "max_tokens")


def anthropic_counts(served: Served) -> None:
    with served.anthropic() as client:
        count = client.messages.count_tokens(model=served.model, messages=HELLO).input_tokens
        message = client.messages.create(model=served.model, messages=HELLO, max_tokens=1)
    assert count == message.usage.input_tokens > 0


def anthropic_lists_models(served: Served) -> None:
    with served.anthropic() as client:
        assert served.model in [model.id for model in client.models.list()]
        assert client.models.retrieve(served.model).display_name == served.model


def anthropic_knows_the_errors(served: Served) -> None:
    asked = {"messages": HELLO, "max_tokens": 1}
    with served.anthropic() as client:
        with pytest.raises(anthropic.NotFoundError) as missing:
            client.messages.create(model="nobody/nothing", **asked)
        assert missing.value.body["error"]["type"] == "not_found_error"
        assert missing.value.body["request_id"] == missing.value.response.headers["x-request-id"]
        with pytest.raises(anthropic.BadRequestError) as refused:
            client.messages.create(model=served.model, messages=HELLO, max_tokens=10**4)
        assert refused.value.body["error"]["type"] == "invalid_request_error"
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(model=served.model, messages=[], max_tokens=1)
    with served.anthropic(api_key="sk-nobody") as stranger, pytest.raises(anthropic.AuthenticationError) as unknown:
        stranger.messages.create(model=served.model, **asked)
    assert unknown.value.body["error"]["type"] == "authentication_error"
    with served.anthropic(api_key=None, auth_token=served.key) as bearer:
        assert bearer.messages.create(model=served.model, **asked).usage.output_tokens == 1


# LangChain


def langchain_asks(served: Served) -> None:
    answer = served.langchain(max_tokens=5).invoke("Hello there")
    assert answer.usage_metadata["output_tokens"] == 5


def langchain_streams(served: Served) -> None:
    chunks = list(served.langchain(max_tokens=5, stream_usage=True).stream("Hello there"))
    assert "".join(chunk.text for chunk in chunks)
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 5


def langchain_keeps_to_a_schema(served: Served) -> None:
    asking = served.langchain(max_tokens=60).with_structured_output(Verdict, method="json_schema")
    assert asking.invoke("Hello there").verdict in ("yes", "no")


def langchain_calls_a_tool(served: Served) -> None:
    asking = served.langchain(max_tokens=90, temperature=0, logit_bias=served.no_spaces())
    (call,) = asking.bind_tools([WEATHER], tool_choice="weather").invoke("Hello there").tool_calls
    assert (call["name"], call["args"]["town"] in ("Ulm", "Bonn")) == ("weather", True)


# curl


def curl_streams(served: Served) -> None:
    body = json.dumps({"model": served.model, "messages": HELLO, "max_tokens": 5, "stream": True})
    command = ["curl", "-sN", "--noproxy", "*", "--max-time", "60", served.url + "/v1/chat/completions"]
    headers = ["-H", f"Authorization: Bearer {served.key}", "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, *headers, "-d", body], capture_output=True, text=True, timeout=70, check=True)
    events = done.stdout.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all(event.startswith("data: {") for event in events[:-1])
    assert "usage" not in done.stdout


CLAIMS = [
    openai_chats, openai_streams, openai_streams_with_usage, openai_completes, openai_asks_many_at_once,
    openai_responds, openai_streams_a_response, openai_lists_models, openai_knows_the_errors,
    anthropic_asks, anthropic_streams, anthropic_counts, anthropic_lists_models, anthropic_knows_the_errors,
    langchain_asks, langchain_streams, curl_streams,
]  # fmt: skip
ABLE = [
    openai_calls_a_tool, openai_keeps_to_a_schema, openai_sees_logprobs, langchain_keeps_to_a_schema,
    langchain_calls_a_tool,
]  # fmt: skip
