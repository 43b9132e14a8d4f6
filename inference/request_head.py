"""The head of a request as clients of the inference paths send it, read strictly: what is unusual is left to a full
HTTP server. Two readers of one connection must never disagree about where a request ends, so whatever could be read in
two ways is not read here."""

import hashlib
import re

from vllm_portal.ids import accepted_id

# Field lines of token, colon and visible text, each with its CRLF; no folding, no bare CR or LF, no NUL.
_FIELDS = re.compile(rb"(?:[!#-'*+.0-9A-Z^-z|~-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\Z")
LONGEST_KNOWN = 1024
_UNUSUAL = {b"content-length", b"transfer-encoding", b"content-encoding", b"expect", b"x-api-key"}


class Head:
    """What counts of a request's head, but for the length of its body. Not to be changed: requests share it."""

    __slots__ = ("close", "identity", "token", "token_digest")

    def __init__(self) -> None:
        self.token = b""
        self.token_digest = b""
        self.identity = ""
        self.close = False


class Heads:
    """Reads heads, and remembers the last ones: most clients change nothing but the length, and a proxy sends those of
    many clients over one connection."""

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._known: dict[bytes, Head] = {}

    def read(self, fields: bytes) -> tuple[Head, int] | None:
        """The header lines of a request, each with its CRLF, and the length of its body. None: something about them
        wants a full HTTP server."""
        at = fields.lower().find(b"content-length:")
        end = fields.find(b"\r\n", at)
        length = fields[at + 15 : end].strip(b" \t")
        if at < 0 or (at and fields[at - 1] != 10) or not length.isdigit() or len(length) > 12:
            return None
        others = fields[:at] + fields[end + 2 :]
        head = self._known.get(others) or self._learn(others)
        return None if head is None else (head, int(length))

    def _learn(self, others: bytes) -> Head | None:
        head = _read(others)
        if head is not None and not head.identity and len(others) <= LONGEST_KNOWN:
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[others] = head
        return head


def _read(fields: bytes) -> Head | None:
    """All header lines but the length, strictly."""
    if not _FIELDS.match(fields):
        return None
    head = Head()
    for line in fields.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"authorization":
            value = value.strip()
            if head.token or value[:7].lower() != b"bearer ":
                return None
            head.token = value[7:].strip()
        elif name == b"x-request-id":
            head.identity = accepted_id(value.strip().decode("ascii", "replace"))
        elif name == b"connection":
            options = [option.strip() for option in value.lower().split(b",")]
            head.close = head.close or b"close" in options
        elif name in _UNUSUAL:
            return None
    head.token_digest = hashlib.sha256(head.token).digest()
    return head if head.token else None
