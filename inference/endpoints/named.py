"""Streams of named events, `event: name\\ndata: {json}\\n\\n`, as OpenAI's responses and Anthropic's messages come.

Their engine counts at the end alone. Until then what went by is counted: an event holds a token at least, and its text
is kept for the engine's tokenizer, should nobody be there for the end.
"""

import msgspec

from inference.endpoints.generation import Generation
from inference.sse import BadStream, Events, PromptDetails, Usage


class NamedUsage(msgspec.Struct):
    """Token counts of OpenAI's responses and of Anthropic's messages, which count what was cached apart."""

    input_tokens: int = 0
    output_tokens: int | None = 0
    input_tokens_details: PromptDetails | None = None
    cache_read_input_tokens: int | None = 0
    cache_creation_input_tokens: int | None = 0

    def plain(self) -> Usage:
        read, written = self.cache_read_input_tokens or 0, self.cache_creation_input_tokens or 0
        details = self.input_tokens_details or (PromptDetails(read) if read else None)
        return Usage(self.input_tokens + read + written, self.output_tokens, details)


class NamedAnswer(msgspec.Struct):
    """Of an answer that comes whole, and of an event that holds one."""

    usage: NamedUsage | None = None


_decode_answer = msgspec.json.Decoder(NamedAnswer).decode


class NamedGeneration(Generation):
    """An endpoint that generates, and counts in these names."""

    def usage(self, data: bytes) -> Usage | None:
        try:
            found = _decode_answer(data).usage
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return found and found.plain()


class NamedEvents(Events):
    def __init__(self) -> None:
        super().__init__()
        self._counts: Usage | None = None
        self._prompt_tokens = 0
        self._seen_tokens = 0
        self._texts: list[str] = []

    def usage(self) -> Usage | None:
        if self._counts is None and self._seen_tokens:
            return Usage(self._prompt_tokens, self._seen_tokens)
        return self._counts

    def text(self) -> str | None:
        return None if self.final else "".join(self._texts)

    def _event(self, event: bytes) -> bytes:
        name, _, data = event.partition(b"\n")
        if not name.startswith(b"event: ") or not data.startswith(b"data: "):
            return event
        return self._named(name[7:].rstrip(), data[6:-2], event)

    def _named(self, name: bytes, data: bytes, event: bytes) -> bytes:
        """What of an event is passed on."""
        raise NotImplementedError

    def _saw(self, text: str | None) -> None:
        self._seen_tokens += 1
        if text:
            self._texts.append(text)

    def _last_word(self, usage: NamedUsage | None) -> None:
        if usage is not None:
            self._counts, self.final = usage.plain(), True


def decoded(decode: "msgspec.json.Decoder", data: bytes):  # type: ignore[no-untyped-def,type-arg]
    """Raises BadStream for an event that is not what its name says."""
    try:
        return decode.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadStream(f"an event cannot be read: {error}") from None
