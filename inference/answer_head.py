"""The head of an engine's answer that came in one piece, as most do that are not streamed: no parser is needed to find
its end. What could be read in two ways is not read here but left to the parser."""

import re

Headers = list[tuple[bytes, bytes]]

MOST_KNOWN = 256
LONGEST = 1024  # as far as the length is looked for
_LENGTH = b"content-length: "

# The head of an answer with a length as uvicorn writes it, without anything that says how to read on: status, type,
# length, type. Any other is the parser's.
_PLAIN = rb"(?:(?:date|server|x-request-id|cache-control): [\x21-\x7e][\x20-\x7e]{0,200}\r\n)*"
_TYPE = rb"(?:content-type: ([\x21-\x7e][\x20-\x7e]{0,200})\r\n)?"
_WHOLE = re.compile(
    rb"HTTP/1\.1 (?!204|304)([2-5]\d\d) [\x20-\x7e]{0,99}\r\n"
    + _PLAIN
    + _TYPE
    + _PLAIN
    + rb"content-length: (\d{1,9})\r\n"
    + _PLAIN
    + _TYPE
    + _PLAIN
    + rb"\r\n"
)


class AnswerHead:
    """What counts of it. Not to be changed: answers share it."""

    __slots__ = ("headers", "status")

    def __init__(self, status: int, content_type: bytes) -> None:
        self.status = status
        self.headers: Headers = [(b"content-type", content_type)]


class AnswerHeads:
    """Reads heads, and remembers the last ones: an engine changes but the length, and once a second the date."""

    def __init__(self) -> None:
        self._known: dict[bytes, AnswerHead] = {}

    def read(self, data: bytes) -> tuple[AnswerHead, int] | None:
        """The head of `data`, and where its body begins. None: `data` is not one whole answer, or its head has
        something that a parser must look at."""
        at = data.find(_LENGTH, 0, LONGEST) + len(_LENGTH)
        end = data.find(b"\r\n", at)
        size = data.find(b"\r\n\r\n", end) + 4
        length = data[at:end]
        if at < len(_LENGTH) or not at < end < size or len(length) > 9 or not length.isdigit():
            return None
        if len(data) != size + int(length):
            return None
        others = data[:at] + data[end:size]
        head = self._known.get(others) or self._learn(others, data, at)
        return None if head is None else (head, size)

    def _learn(self, others: bytes, data: bytes, at: int) -> AnswerHead | None:
        found = _WHOLE.match(data)
        if found is None or found.start(3) != at:  # the length that was found is another header's text
            return None
        head = AnswerHead(int(found[1]), found[2] or found[4] or b"")
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[others] = head
        return head
