"""The head of a request as clients of the inference paths send it, read strictly: what is unusual is left to a full
HTTP server. Two readers of one connection must never disagree about where a request ends, so whatever could be read in
two ways is not read here."""

import re

from vllm_portal.log import accepted_id

# Field lines of token, colon and visible text, each with its CRLF; no folding, no bare CR or LF, no NUL.
_FIELDS = re.compile(rb"(?:[!#-'*+.0-9A-Z^-z|~-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\Z")
_UNUSUAL = {b"transfer-encoding", b"content-encoding", b"expect", b"x-api-key"}
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class Head:
    """What counts of a request's head."""

    __slots__ = ("close", "identity", "length", "token")

    def __init__(self) -> None:
        self.length = -1
        self.token = b""
        self.identity = ""
        self.close = False


def read_head(fields: bytes) -> Head | None:
    """The header lines of a request, each with its CRLF. None: something about them wants a full HTTP server."""
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
        elif name == b"content-length":
            value = value.strip()
            if head.length >= 0 or not value.isdigit() or len(value) > 12:
                return None
            head.length = int(value)
        elif name == b"x-request-id":
            head.identity = accepted_id(value.strip().decode("ascii", "replace"))
        elif name == b"connection":
            head.close = head.close or b"close" in value.lower()
        elif name in _UNUSUAL:
            return None
    return head if head.length >= 0 and head.token else None


def without_upgrade(data: bytes, head_end: int) -> bytes:
    """A request without its wish to change to another protocol."""
    if head_end <= 0 or not _UPGRADE.search(data, 0, head_end):
        return data
    return _UPGRADE.sub(b"", data[:head_end]) + data[head_end:]
