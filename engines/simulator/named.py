"""Answers as named events, and in one piece: OpenAI's responses and Anthropic's messages, as vLLM writes them. Pure."""

import time
import uuid
from typing import Any

from engines.simulator.answers import Answer
from engines.simulator.misbehaviour import Faults
from engines.simulator.wire import to_json


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), to_json(data))


class NamedFormat:
    """One answer. What thinks says its thoughts in a block of their own, before the text."""

    def __init__(self, request_id: str, model: str, prompt_tokens: int, answer: Answer, faults: Faults) -> None:
        self._id = request_id
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._answer = answer
        self._faults = faults
        self._created = int(time.time())
        self._blocks = 0
        self._open = ""
        """The kind of the block that is under way."""

    def events(self, first: int, last: int) -> tuple[bytes, int]:
        """The events of tokens first..last-1, and how many tokens these are."""
        pieces = self._answer.pieces[first:last]
        data = b""
        for place, piece in enumerate(pieces, first):
            kind = "thought" if place < self._answer.thoughts else "text"
            if kind != self._open:
                data += self._end_block() + self._begin_block(kind)
            data += self._piece(piece)
        return data, len(pieces)

    def _end_block(self) -> bytes:
        if not self._open:
            return b""
        data = self._ended(self._open)
        self._blocks += 1
        self._open = ""
        return data

    def _begin_block(self, kind: str) -> bytes:
        self._open = kind
        return self._begun(kind)

    def _tokens(self) -> int:
        return self._faults.completion_tokens(len(self._answer.pieces))

    def _texts(self) -> list[tuple[str, str]]:
        """(kind, text) of each block."""
        both = [("thought", self._answer.reasoning), ("text", self._answer.content)]
        return [(kind, text) for kind, text in both if text]

    def broken_event(self) -> bytes:
        return b'event: broken\ndata: {"type":\n\n'

    def long_event(self, size: int) -> bytes:
        return _event("ping", {"type": "ping", "padding": "x" * size})

    def _begun(self, kind: str) -> bytes:
        raise NotImplementedError

    def _piece(self, piece: str) -> bytes:
        raise NotImplementedError

    def _ended(self, kind: str) -> bytes:
        raise NotImplementedError


class MessageFormat(NamedFormat):
    """Anthropic's."""

    def _usage(self, output_tokens: int) -> dict[str, Any]:
        return {"usage": {"input_tokens": self._prompt_tokens, "output_tokens": output_tokens}}

    def _usage_if_told(self, output_tokens: int) -> dict[str, Any]:
        return {} if "usage-absent" in self._faults else self._usage(output_tokens)

    def opening(self) -> bytes:
        message = {
            "id": f"chatcmpl-{self._id}", "type": "message", "role": "assistant", "content": [], "model": self._model,
            "stop_reason": None, "stop_sequence": None, **self._usage_if_told(0),
        }  # fmt: skip
        return _event("message_start", {"type": "message_start", "message": message})

    def _begun(self, kind: str) -> bytes:
        block = {"type": "thinking", "thinking": ""} if kind == "thought" else {"type": "text", "text": ""}
        return _event(
            "content_block_start", {"type": "content_block_start", "content_block": block, "index": self._blocks}
        )

    def _piece(self, piece: str) -> bytes:
        name = "thinking" if self._open == "thought" else "text"
        delta = {"type": f"{name}_delta", name: piece}
        return _event("content_block_delta", {"type": "content_block_delta", "delta": delta, "index": self._blocks})

    def _ended(self, kind: str) -> bytes:
        return _event("content_block_stop", {"type": "content_block_stop", "index": self._blocks})

    def closing(self, include_usage: bool) -> bytes:
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": self._answer.stop_reason}
        told = {"type": "message_delta", "delta": delta, **self._usage_if_told(self._tokens())}
        return self._end_block() + _event("message_delta", told) + _event("message_stop", {"type": "message_stop"})

    def failure(self) -> bytes:
        said = {"type": "internal_error", "message": "EngineCore encountered an issue."}
        return _event("error", {"type": "error", "error": said})

    def body(self) -> dict[str, Any]:
        blocks = [
            {"type": "thinking", "thinking": text, "signature": uuid.uuid4().hex}
            if kind == "thought"
            else {"type": "text", "text": text}
            for kind, text in self._texts()
        ]
        ending = {"stop_reason": self._stop_reason()}
        if self._answer.stop_reason is not None:
            ending["stop_sequence"] = self._answer.stop_reason
        head = {"id": f"chatcmpl-{self._id}", "type": "message", "role": "assistant", "content": blocks}
        return {**head, "model": self._model, **ending, **self._usage_if_told(self._tokens())}

    def _stop_reason(self) -> str:
        if self._answer.finish_reason == "length":
            return "max_tokens"
        return "stop_sequence" if self._answer.stop_reason is not None else "end_turn"


class ResponseFormat(NamedFormat):
    """OpenAI's."""

    def __init__(
        self, request_id: str, model: str, prompt_tokens: int, answer: Answer, faults: Faults, max_tokens: int
    ) -> None:
        super().__init__(request_id, model, prompt_tokens, answer, faults)
        self._id = f"resp_{uuid.uuid4().hex[:16]}"  # here vLLM does not take the request's
        self._max_tokens = max_tokens
        self._sequence = -1
        self._item_id = ""
        self._said = ""
        self._output: list[dict[str, Any]] = []

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        return _event(kind, {**fields, "sequence_number": self._sequence, "type": kind})

    def _place(self) -> dict[str, Any]:
        return {"content_index": 0, "item_id": self._item_id, "output_index": self._blocks}

    def opening(self) -> bytes:
        response = self._response("in_progress", [], None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _begun(self, kind: str) -> bytes:
        self._item_id = f"{'rs' if kind == 'thought' else 'msg'}_{uuid.uuid4().hex[:16]}"
        self._said = ""
        item = self._item(kind, self._item_id, None)
        added = self._event("response.output_item.added", item=item, output_index=self._blocks)
        part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        if kind == "thought":
            return added
        return added + self._event("response.content_part.added", **self._place(), part=part)

    def _piece(self, piece: str) -> bytes:
        self._said += piece
        if self._open == "thought":
            return self._event("response.reasoning_text.delta", **self._place(), delta=piece)
        return self._event("response.output_text.delta", **self._place(), delta=piece, logprobs=[])

    def _ended(self, kind: str) -> bytes:
        item = self._item(kind, self._item_id, self._said)
        self._output.append(item)
        if kind == "thought":
            data = self._event("response.reasoning_text.done", **self._place(), text=self._said)
        else:
            data = self._event("response.output_text.done", **self._place(), logprobs=[], text=self._said)
            data += self._event("response.content_part.done", **self._place(), part=item["content"][0])
        return data + self._event("response.output_item.done", item=item, output_index=self._blocks)

    def closing(self, include_usage: bool) -> bytes:
        ended = self._end_block()
        return ended + self._event("response.completed", response=self._ended_response(self._output))

    def failure(self) -> bytes:
        """None: vLLM breaks the connection off."""
        return b""

    def body(self) -> dict[str, Any]:
        output = []
        for kind, text in self._texts():
            output.append(self._item(kind, f"{'rs' if kind == 'thought' else 'msg'}_{uuid.uuid4().hex[:16]}", text))
        return self._ended_response(output)

    def _ended_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        cut = self._answer.finish_reason == "length"
        usage = {
            "input_tokens": self._prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self._tokens(),
            "output_tokens_details": {"reasoning_tokens": self._answer.thoughts, "tool_output_tokens": 0},
            "total_tokens": self._prompt_tokens + self._tokens(),
        }
        told = None if "usage-absent" in self._faults else usage
        return self._response("incomplete" if cut else "completed", output, told)

    def _item(self, kind: str, identity: str, text: str | None) -> dict[str, Any]:
        """`text` None: it has only begun."""
        status = "in_progress" if text is None else "completed"
        if kind == "thought":
            content = [] if text is None else [{"text": text, "type": "reasoning_text"}]
            return {"id": identity, "summary": [], "type": "reasoning", "content": content, "status": status}
        part = {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
        item = {"id": identity, "content": [] if text is None else [part], "role": "assistant", "status": status}
        return {**item, "type": "message", "phase": None}

    def _response(self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "id": self._id, "created_at": self._created,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None, "metadata": None, "model": self._model, "object": "response", "output": output,
            "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "none", "tools": [], "top_p": 1.0,
            "background": False, "max_output_tokens": self._max_tokens, "max_tool_calls": None,
            "previous_response_id": None, "prompt": None, "reasoning": None, "service_tier": "auto", "status": status,
            "text": None, "top_logprobs": None, "truncation": "disabled", "usage": usage, "user": None,
            "presence_penalty": 0.0, "frequency_penalty": 0.0, "kv_transfer_params": None,
        }  # fmt: skip
