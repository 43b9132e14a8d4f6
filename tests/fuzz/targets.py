"""What is fuzzed: functions that take any bytes and raise AssertionError where a claim does not hold. The first byte of
an input says where it is cut."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference.front import Front
from inference.request_head import Heads
from inference.sse import BadStream, Filter
from inference.upstream import MAX_HEAD
from tests.fakes.memory import held
from tests.fakes.strict import read_requests
from tests.inference.test_front_framing import converse, with_plane
from tests.inference.test_sse_pieces import standing
from tests.inference.test_upstream_pieces import Engine

_UPGRADE = re.compile(rb"upgrade(?=[ \t]*:)", re.IGNORECASE)


def cut(data: bytes) -> list[bytes]:
    """The first byte is the number of pieces, less one, in steps of an eighth of the rest."""
    if not data:
        return []
    data, first = data[1:], data[0]
    marks = [len(data) * number // 8 for number in range(9)]
    edges = [0, *(mark for bit, mark in enumerate(marks[1:8]) if first >> bit & 1), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if end > start]


def front(data: bytes) -> None:
    """A client's bytes: what comes through and what is answered are what uvicorn alone would make of them."""
    pieces = cut(data)
    whole = b"".join(pieces)
    if b"HEAD" in whole:
        return  # where its answer ends, the answer alone does not say
    strict, stands = read_requests(whole)
    plain = _UPGRADE.sub(b"xpgrade", whole)  # uvicorn would stop reading there

    async def conversation(plane: Any) -> None:
        alone = await converse(plane, HttpToolsProtocol, [plain])
        split = await converse(plane, Front, pieces)
        assert _shape(split[1])[: len(alone[1])] == _shape(alone[1])
        if stands in ("whole", "closed") and all(one.method in ("GET", "POST", "PUT") for one in strict):
            assert [one for one, _ in split[0]] == [one for one, _ in alone[0]]
            assert len(split[0]) == len(strict)
            assert split[2] == alone[2]

    with_plane(conversation)


def _shape(seen: list[Any]) -> list[Any]:
    return [(where, method, path, len(body)) for where, method, path, body in seen]


def head(data: bytes) -> None:
    """The lines of a head: what is read of them is what a strict reader reads."""
    found = Heads().read(data)
    if found is None:
        return
    told, length = found
    requests, stands = read_requests(b"POST / HTTP/1.1\r\n" + data + b"\r\n" + b"x" * min(length, 1000))
    if length <= 1000:
        assert stands in ("whole", "closed")
        (request,) = requests
        assert request.values(b"content-length")
        assert len(request.body) == length
        assert told.close == (stands == "closed")
        (given,) = request.values(b"authorization")
        assert given[7:].strip() == told.token


def upstream(data: bytes) -> None:
    """An engine's bytes: one end is told, and it is the same however they came."""

    async def conversation(loop: Any) -> None:
        told = []
        for pieces in ([b"".join(cut(data))], cut(data)):
            engine = Engine(loop)
            taken, line = await engine.post()
            for piece in pieces:
                line.arrive(piece)
            kept = not line.is_closing() and bool(taken.calls) and taken.calls[-1] == "end"
            line.leave()
            await loop.settle()
            assert taken.calls[-1] in ("end", "failed")
            assert not engine.pool.busy
            kept = kept or data.endswith(
                (b"\r", b"\n")
            )  # blank lines behind an answer spoil a connection if they come later
            told.append((taken.calls[-1], taken.status, taken.body, kept))
            engine.pool.close()
        if len(data) < MAX_HEAD:
            assert told[0] == told[1]

    held(conversation)


def sse(data: bytes) -> None:
    """A stream's bytes: what is given out and counted is the same however they came."""
    if b"\n\n\n" in data:
        return  # an empty event: no engine writes one
    for choices in (1, 2):
        told = []
        for pieces in ([data[1:]], cut(data)):
            stream = Filter(keep_usage=False, keep_continuous=False, choices=choices, choices_per_prompt=choices)
            try:
                out = b"".join([stream.feed(piece) for piece in pieces])
                told.append(standing(stream, out + stream.finish()))
            except BadStream:
                told.append(None)
        assert told[0] == told[1]


TARGETS: dict[str, Callable[[bytes], None]] = {"front": front, "head": head, "upstream": upstream, "sse": sse}
