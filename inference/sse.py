"""Server-sent events as vLLM writes them: `data: {json}\\n\\n`, ended by `data: [DONE]\\n\\n`. Pure.

The portal always asks the engine for usage in every chunk, so that a stream that is cut off has an exact count. What
the client did not ask for is taken out again here, by position and without decoding the chunk: within JSON the bytes
`"usage":` are always a key, since a quote inside a string is escaped.
"""

import msgspec

from inference.errors import with_string_code

MAX_EVENT_BYTES = 4 * 2**20
DONE = b"data: [DONE]"
_FINGERPRINT = b',"system_fingerprint":"'
_CUT = b"\0"  # in JSON there is none


class Usage(msgspec.Struct):
    """Token counts as the engine gave them; null and missing count as 0."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: "PromptDetails | None" = None

    @property
    def generated_tokens(self) -> int:
        return self.completion_tokens or 0

    @property
    def cached_tokens(self) -> int:
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = 0


class _Answer(msgspec.Struct):
    usage: Usage | None = None


class _Choice(msgspec.Struct):
    index: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None


_decode_usage = msgspec.json.Decoder(Usage).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def _closing_brace(data: bytes, start: int) -> int:
    """Where the object that opens at `start` has ended. A usage holds numbers and objects of numbers, no text.
    Raises BadStream."""
    end = data.find(b"}", start) + 1
    if end and data.find(b"{", start + 1, end) < 0:
        return end  # nothing within, as it nearly always is
    while end and data.count(b"{", start, end) != data.count(b"}", start, end):
        end = data.find(b"}", end) + 1
    if not end:
        raise BadStream("its usage does not end")
    return end


class BadStream(ValueError):
    """The bytes are no event stream of an engine; the message says why."""


def answer_usage(body: bytes) -> Usage | None:
    """The usage of an answer that was not streamed; None: it has none."""
    try:
        return _decode_answer(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class Events:
    """The events of one stream. `feed(bytes)` gives the bytes to pass on now. Whole events pass; the beginning of an
    event waits for its end, which costs nothing in practice, since vLLM writes an event at a time."""

    counts_along = False

    def __init__(self) -> None:
        self._rest = b""
        self.final = False
        """The count is the engine's last word."""
        self.done = False
        self.failed = False

    def feed(self, data: bytes) -> bytes:
        """Raises BadStream for an event without end or a usage that is not JSON."""
        if self._rest:
            data = self._rest + data
        end = data.rfind(b"\n\n")
        if end < 0:
            self._hold(data)
            return b""
        if end == len(data) - 2 and data.find(b"\n\n") == end:  # one whole event, as it nearly always is
            self._rest = b""
            return self._event(data)
        end += 2
        self._hold(data[end:])
        return b"".join([self._event(event + b"\n\n") for event in data[: end - 2].split(b"\n\n")])

    def _hold(self, rest: bytes) -> None:
        if len(rest) > MAX_EVENT_BYTES:
            raise BadStream("an event of the stream does not end")
        self._rest = rest

    def _event(self, event: bytes) -> bytes:
        """What of a whole event is passed on."""
        raise NotImplementedError

    def text(self) -> str | None:
        """What was generated so far, for a stream whose engine counts only at the end; None: `usage()` counts along."""
        return None

    def finish(self) -> bytes:
        """What is left at the end of the stream: bytes of an event that never ended."""
        rest, self._rest = self._rest, b""
        return rest


class Filter(Events):
    """OpenAI's stream of chunks. After each call `usage()` gives the engine's latest counts, `done` tells that [DONE]
    came and `failed` that an error event came (vLLM sends [DONE] after that, too)."""

    counts_along = True

    def __init__(
        self,
        *,
        keep_usage: bool,
        keep_continuous: bool,
        choices: int = 1,
        choices_per_prompt: int = 1,
        known: dict[str, bytes] | None = None,
    ) -> None:
        """keep_usage: the client asked for the usage chunk at the end. keep_continuous: for usage in each chunk.
        `choices` > 1 means that an event's usage counts one choice alone, and the counts are the sum. `known` is what
        streams of this engine have told before: its fingerprint, which vLLM writes into the last message, and that is
        the usage chunk only where there is one."""
        super().__init__()
        self._known = {} if known is None else known
        self._held = b""
        self._keep_usage = self.keeps_usage = keep_usage
        self._keep_continuous = keep_continuous
        self._choices = choices
        self._usual = choices == 1 and not keep_continuous
        self._choices_per_prompt = choices_per_prompt
        self._per_choice: dict[int, Usage] = {}
        self._latest = b""
        self._counts: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        # The short way of `_event`, for nearly all there is: one event whose choice goes on, and whose usage, without
        # anything nested, is what the client did not ask for.
        if self._usual and not (self._rest or self._held):
            at = data.rfind(b'"usage":') - 1
            end = data.find(b"}", at) + 1
            if (
                0 < at < end
                and data.startswith(b',"usage":{', at)
                and data.find(b"\n") == len(data) - 2
                and data.endswith(b"\n\n")
                and data.find(b"{", at + 10, end) < 0
                # A choice's key: then it is not its last message, and this is not the usage chunk, which has no choice.
                and data.rfind(b'"finish_reason":null', 0, at) > 0
            ):
                self._latest, self.final = data[at + 9 : end], False
                return data[:at] + data[end:]
        return Events.feed(self, data)

    def usage(self) -> Usage | None:
        """The engine's latest counts; None: it has told none. Decoded when they are asked for, which is once a second
        and at the end, and not in each chunk. Raises BadStream for counts that are none."""
        if self._latest:
            latest, self._latest = self._latest, b""
            try:
                self._counts = _decode_usage(latest)
            except msgspec.DecodeError as error:
                raise BadStream(f"its usage cannot be read: {error}") from None
        return self._counts

    def _event(self, event: bytes) -> bytes:
        if self._held:
            return self._release(event) + self._event(event)
        at = event.rfind(b'"usage":')
        if at < 0:
            if event.startswith(DONE):
                self.done = True
            elif event.startswith(b'data: {"error"'):
                self.failed = True
                return b"data: %b\n\n" % with_string_code(event[6:-2])
            return event
        if event[at + 8 : at + 9] != b"{":
            return event  # "usage":null
        end = _closing_brace(event, at + 8)
        last = b'"choices":[]' in event
        if last or self._choices == 1:
            self._latest, self.final = event[at + 8 : end], last
        else:
            self._add_up(event)
        if last:
            return event if self._keep_usage else b""
        if self._keep_continuous:
            return event
        start = at - 1 if event[at - 1 : at] == b"," else at
        if not self._keep_usage and b'"finish_reason":"' in event:
            return self._last_of_a_choice(event[:start], event[end:])
        return event[:start] + event[end:]

    def _last_of_a_choice(self, begin: bytes, end: bytes) -> bytes:
        """Without a usage chunk this would have been the last message. One whose fingerprint is not known yet waits
        for the next event, which is the usage chunk and comes at once."""
        if "fingerprint" in self._known:
            return begin + self._known["fingerprint"] + end
        self._held = begin + _CUT + end
        return b""

    def _release(self, event: bytes) -> bytes:
        """What was held until `event`."""
        held, self._held = self._held, b""
        self._learn_fingerprint(event)
        return self._stamped(held)

    def _stamped(self, held: bytes) -> bytes:
        return held.replace(_CUT, self._known.get("fingerprint", b""))

    def _learn_fingerprint(self, event: bytes) -> None:
        if b'"choices":[]' not in event:
            return
        at = event.find(_FINGERPRINT)
        self._known["fingerprint"] = b"" if at < 0 else event[at : event.find(b'"', at + len(_FINGERPRINT)) + 1]

    def _add_up(self, event: bytes) -> None:
        """With several choices, a chunk's usage counts its own choice alone."""
        try:
            chunk = _decode_chunk(event[6:])
        except msgspec.DecodeError as error:
            raise BadStream(f"a chunk cannot be read: {error}") from None
        if chunk.usage is None:
            return
        for choice in chunk.choices:
            self._per_choice[choice.index] = chunk.usage
        prompts = {index // self._choices_per_prompt: usage for index, usage in self._per_choice.items()}
        self._counts = Usage(
            sum(usage.prompt_tokens for usage in prompts.values()),
            sum(usage.generated_tokens for usage in self._per_choice.values()),
            chunk.usage.prompt_tokens_details,
        )

    def finish(self) -> bytes:
        held, self._held = self._held, b""
        return self._stamped(held) + Events.finish(self)
