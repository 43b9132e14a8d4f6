"""Server-sent events, as HTML's standard has them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """`id` is that of the last event which had one: what a resumed stream asks for."""

    kind: str
    data: str
    id: str


def events(lines: Iterable[bytes]) -> Iterator[Event]:
    """Of lines without their ends. What is cut off in its middle is no event."""
    kind, data, last_id = "message", [], ""
    for line in lines:
        if not line:
            if data:
                yield Event(kind, "\n".join(data), last_id)
            kind, data = "message", []
            continue
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id":
            last_id = value


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines as they come. (requests' own takes a line end that is cut in two for two.)"""
    rest = b""
    for chunk in chunks:
        rest += chunk
        *whole, rest = rest.split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
