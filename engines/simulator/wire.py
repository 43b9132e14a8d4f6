"""The bytes of answers: vLLM's JSON bodies and server-sent events. Pure.

An event is made of parts that are encoded once for each request, for this is done once for each token.
"""

import base64
import json
import random
import time
import uuid
from array import array
from functools import lru_cache
from typing import Any

import msgspec

from engines.simulator.answers import Answer
from engines.simulator.errors import ENGINE_DEAD
from engines.simulator.misbehaviour import Faults
from engines.simulator.options import Adapter

DONE = b"data: [DONE]\n\n"
FINGERPRINT = "vllm-0.32.0-simulated"
_FINGERPRINT = b',"system_fingerprint":"%b"' % FINGERPRINT.encode()
DIMENSIONS = 64

to_json = msgspec.json.Encoder().encode


@lru_cache(maxsize=1 << 16)
def _quoted(piece: str) -> bytes:
    return to_json(piece)


ENGINE_DEAD_EVENT = f"data: {json.dumps(ENGINE_DEAD)}\n\n".encode()  # with spaces, unlike all other events


def usage_of(prompt_tokens: int, completion_tokens: int, faults: Faults) -> dict[str, Any]:
    said = faults.completion_tokens(completion_tokens)
    return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + said, "completion_tokens": said}


class AnswerFormat:
    """One request's answer, as a chat's or as an older completion's, in one piece or as events.

    As in vLLM the usage within an event counts that answer's own tokens and its own prompt's, and the one at the end
    all of them.
    """

    def __init__(
        self,
        chat: bool,
        request_id: str,
        model: str,
        counts: list[int],
        answers: list[Answer],
        faults: Faults,
        continuous_usage: bool = False,
        include_usage: bool = False,
    ) -> None:
        self._chat = chat
        self._id = ("chatcmpl-" if chat else "cmpl-") + request_id
        self._model = model
        self._created = int(time.time())
        self._prompt_tokens = sum(counts)
        self._own_prompts = [count for count in counts for _ in range(len(answers) // len(counts))]
        self._answers = answers
        self._faults = faults
        self._usage_in_events = continuous_usage and "usage-absent" not in faults
        kind = "chat.completion.chunk" if chat else "text_completion"
        head = to_json({"id": self._id, "object": kind, "created": self._created, "model": model})
        self._event_head = b"data: " + head[:-1] + b',"choices":['
        opening = b'"delta":{"content":' if chat else b'"text":'
        self._choice_heads = [b'{"index":%d,%b' % (index, opening) for index in range(len(answers))]
        self._thought_heads = [b'{"index":%d,"delta":{"reasoning":' % index for index in range(len(answers))]
        closing = b'},"logprobs":null' if chat else b',"logprobs":null'
        self._between = closing + b',"finish_reason":null,"token_ids":null}]'
        # In the last message: the usage chunk, where there is one.
        self._fingerprint = b"" if include_usage else _FINGERPRINT
        self._last = [
            closing
            + b',"finish_reason":%b,"stop_reason":%b,"token_ids":null}]'
            % (_quoted(answer.finish_reason), to_json(answer.stop_reason))
            for answer in answers
        ]

    def opening(self) -> bytes:
        """The events that name the role, which only a chat has."""
        if not self._chat:
            return b""
        role = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        heads = (b'{"index":%d,' % index for index in range(len(self._answers)))
        usage = self._usage_so_far(0, 0) if self._usage_in_events else b""
        return b"".join(self._event_head + head + role + usage + b"}\n\n" for head in heads)

    def events(self, first: int, last: int) -> tuple[bytes, int]:
        """The events of tokens first..last-1 of every answer, and how many tokens these are in all."""
        parts: list[bytes] = []
        many = 0
        for step in range(first, last):
            for index, answer in enumerate(self._answers):
                size = len(answer.pieces)
                if step >= size:
                    continue
                many += 1
                last_one = step == size - 1
                parts += (
                    self._event_head,
                    self._thought_heads[index] if step < answer.thoughts else self._choice_heads[index],
                    _quoted(answer.pieces[step]),
                    self._last[index] if last_one else self._between,
                    self._usage_so_far(index, step + 1) if self._usage_in_events else b"",
                    self._fingerprint if last_one else b"",
                    b"}\n\n",
                )
        return b"".join(parts), many

    def _usage_so_far(self, index: int, completion_tokens: int) -> bytes:
        said = self._faults.completion_tokens(completion_tokens)
        prompt = self._own_prompts[index]
        return b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (prompt, prompt + said, said)

    def usage_event(self) -> bytes:
        """The event after the last token, b"" where usage is to be absent."""
        if "usage-absent" in self._faults:
            return b""
        usage = to_json(usage_of(self._prompt_tokens, self._completion_tokens, self._faults))
        return self._event_head + b'],"usage":' + usage + _FINGERPRINT + b"}\n\n"

    def long_event(self, size: int) -> bytes:
        """An event without a token whose line is `size` bytes longer than it should be."""
        return self._event_head + b'],"padding":"' + b"x" * size + b'"}\n\n'

    def broken_event(self) -> bytes:
        return self._event_head + b"\n\n"

    def closing(self, include_usage: bool) -> bytes:
        return (self.usage_event() if include_usage else b"") + DONE

    def failure(self) -> bytes:
        """What ends a stream in which the engine failed."""
        return ENGINE_DEAD_EVENT + DONE

    @property
    def _completion_tokens(self) -> int:
        return sum(len(answer.pieces) for answer in self._answers)

    def body(self) -> dict[str, Any]:
        """The answer in one piece."""
        make = self._chat_choice if self._chat else self._text_choice
        body: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion" if self._chat else "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": [make(index, answer) for index, answer in enumerate(self._answers)],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage_of(self._prompt_tokens, self._completion_tokens, self._faults)
            | {"prompt_tokens_details": None, "completion_tokens_details": None},
            "prompt_logprobs": None,
            "kv_transfer_params": None,
        }
        if "usage-absent" in self._faults:
            del body["usage"]
        return body

    def _chat_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": answer.content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": answer.reasoning or None,
        }
        return {"index": index, "message": message} | self._ending(answer) | {"routed_experts": None}

    def _text_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        whole = answer.reasoning + answer.content
        return {"index": index, "text": whole} | self._ending(answer) | {"prompt_token_ids": None}

    def _ending(self, answer: Answer) -> dict[str, Any]:
        return {
            "logprobs": None,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
            "token_ids": None,
        }


def models_body(
    names: tuple[str, ...], root: str, max_model_len: int, adapters: tuple[Adapter, ...] = ()
) -> dict[str, Any]:
    cards = [_card(name, root, None, max_model_len) for name in names]
    cards += [_card(adapter.name, adapter.path, adapter.base or names[0], None) for adapter in adapters]
    return {"object": "list", "data": cards}


def _card(name: str, root: str, parent: str | None, max_model_len: int | None) -> dict[str, Any]:
    created = int(time.time())
    permission = {
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_len,
        "permission": [{"id": f"modelperm-{uuid.uuid4().hex}"} | permission],
    }


def embeddings_body(
    request_id: str, model: str, inputs: list[str], prompt_tokens: int, as_base64: bool, faults: Faults
) -> dict[str, Any]:
    vectors = [unit_vector(text) for text in inputs]
    body = {
        "id": f"embd-{request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [
            {
                "index": index,
                "object": "embedding",
                "embedding": base64.b64encode(array("f", vector).tobytes()).decode() if as_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "usage": usage_of(prompt_tokens, 0, faults) | {"prompt_tokens_details": None},
    }
    if "usage-absent" in faults:
        del body["usage"]
    return body


def unit_vector(text: str) -> list[float]:
    """The same text gives the same vector of length 1; nothing else is to be read from it."""
    source = random.Random(text.encode("utf-8", "replace"))
    values = [source.gauss(0, 1) for _ in range(DIMENSIONS)]
    length = sum(value * value for value in values) ** 0.5
    return [value / length for value in values]
