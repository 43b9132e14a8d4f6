"""An engine's log as server-sent events, while it is written.

    id: <characters so far>      with each piece; sent back as Last-Event-ID, the stream goes on from there
    data: <line>                 lines of the log
    event: gap                   something in between was cut off, or the log began anew
    event: end                   the engine has ended and its log is told

No database connection is held between two looks. A user may have STREAMS at once in each web process.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connection

from engines import engine_logs
from engines.models import Engine
from engines.states import FINAL
from vllm_portal.errors import CallerError

STREAMS = 10
LOOK_S = 0.5
HEARTBEAT_S = 15.0
LONGEST_S = 3600.0
_OVERLAP = 400

_open: Counter[int] = Counter()


class TooManyStreams(CallerError):
    """429."""


def follow(engine_id: UUID, user_id: int, told: int = 0) -> AsyncIterator[bytes]:
    """Events until the engine has ended, the client leaves or LONGEST_S are over. `told`: characters of the log that
    the client has. Raises TooManyStreams."""
    if _open[user_id] >= STREAMS:
        raise TooManyStreams(f"You follow {STREAMS} logs already; close one first.")
    return _events(engine_id, user_id, told)


async def _events(engine_id: UUID, user_id: int, told: int) -> AsyncIterator[bytes]:
    _open[user_id] += 1
    try:
        began = said = time.monotonic()
        before = ""
        while time.monotonic() - began < LONGEST_S:
            text, ended = await sync_to_async(_look, thread_sensitive=False)(engine_id)
            fresh, gap = _news(before, text) if before else (text[told:], told > len(text))
            if gap:
                fresh, told = text, 0
                yield b"event: gap\ndata:\n\n"
            if fresh:
                told += len(fresh)
                said = time.monotonic()
                yield _event(fresh, told)
            before = text or before
            if ended and not fresh:
                yield b"event: end\ndata:\n\n"
                return
            if time.monotonic() - said > HEARTBEAT_S:
                said = time.monotonic()
                yield b": still here\n\n"
            await asyncio.sleep(LOOK_S)
    finally:
        _open[user_id] -= 1
        if not _open[user_id]:
            del _open[user_id]


def _look(engine_id: UUID) -> tuple[str, bool]:
    """(the log, whether the engine has ended). In a thread of a pool, where nobody else gives the connection back."""
    try:
        engine = Engine.objects.filter(pk=engine_id).first()
        return ("", True) if engine is None else (engine_logs.read(engine), engine.state in FINAL)
    finally:
        connection.close()


def _news(before: str, after: str) -> tuple[str, bool]:
    """(what came after `before`, whether something is missing between). A long log is known by its end alone."""
    if after.startswith(before):
        return after[len(before) :], False
    if not after:
        return "", False
    at = after.rfind(before[-_OVERLAP:])
    return ("", True) if at < 0 else (after[at + len(before[-_OVERLAP:]) :], False)


def _event(text: str, told: int) -> bytes:
    lines = "".join(f"data: {line}\n" for line in text.replace("\r", "").split("\n"))
    return f"id: {told}\n{lines}\n".encode()
