"""HTTP/1.1 read as strictly as RFC 9112 allows: what is not plainly one thing is refused. The measure for the readers
that the portal uses; slow and simple on purpose."""

import re
from dataclasses import dataclass

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ((?:http://portal)?/[\w/.?=&-]*) HTTP/1\.([01])")
_FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*"
)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")


@dataclass(frozen=True)
class Request:
    method: str
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Refused(Exception):
    """It is not HTTP, or could be read in two ways."""


class _More(Exception):
    """It may go on, but has not yet."""


def read_requests(data: bytes) -> tuple[list[Request], str]:
    """The requests of a connection, and how it stands: "whole", "begun" (another one has begun), "refused", or "closed"
    (nothing after the last one counts)."""
    requests: list[Request] = []
    while True:
        while data.startswith(b"\r\n"):
            data = data[2:]
        if not data:
            return requests, "whole"
        try:
            request, data, last = _request(data)
        except _More:
            return requests, "begun"
        except Refused:
            return requests, "refused"
        requests.append(request)
        if last:
            return requests, "closed"


def read_answers(data: bytes) -> list[Answer]:
    """The whole answers of a connection, without interim ones. Raises Refused for bytes that are none."""
    answers = []
    while data:
        try:
            line, fields, rest = _head(data)
            status = int(line.split(b" ")[1])
            if status < 200:
                data = rest
                continue
            body, data = _body(fields, rest)
        except _More:
            raise Refused(f"an answer does not end: {data[:200]!r}") from None
        answers.append(Answer(status, dict(fields), body))
    return answers


def _request(data: bytes) -> tuple[Request, bytes, bool]:
    line, fields, rest = _head(data)
    found = _LINE.fullmatch(line)
    if not found:
        raise Refused("its first line")
    if found[3] == b"0" and any(name == b"transfer-encoding" for name, _ in fields):
        raise Refused("chunks in HTTP/1.0")
    body, rest = _body(fields, rest)
    request = Request(found[1].decode(), found[2], tuple(fields), body)
    options = [option.strip().lower() for value in request.values(b"connection") for option in value.split(b",")]
    return request, rest, found[3] == b"0" or b"close" in options


def _head(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        raise _More
    line, *lines = head.split(b"\r\n")
    fields = []
    for one in lines:
        found = _FIELD.fullmatch(one)
        if not found:
            raise Refused(f"a header line: {one!r}")
        fields.append((found[1].lower(), found[2]))
    return line, fields, rest


def _body(fields: list[tuple[bytes, bytes]], rest: bytes) -> tuple[bytes, bytes]:
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    if codings:
        if codings != [b"chunked"] or lengths:
            raise Refused("how long it is")
        return _chunks(rest)
    if not lengths:
        return b"", rest
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,15}", lengths[0]):
        raise Refused("how long it is")
    length = int(lengths[0])
    if len(rest) < length:
        raise _More
    return rest[:length], rest[length:]


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            raise _More
        found = _CHUNK.fullmatch(line)
        if not found:
            raise Refused("a chunk's size")
        size = int(found[1], 16)
        if not size:
            _, _, rest = _head(b"\r\n" + data)
            return body, rest
        if len(data) < size + 2:
            raise _More
        if data[size : size + 2] != b"\r\n":
            raise Refused("a chunk's end")
        body, data = body + data[:size], data[size + 2 :]
