"""Says to a page that its engines have changed, as server-sent events:

    event: changed    the cards are other ones than when the stream began or said so last
    event: over       it has lasted long enough: connect anew

What has changed the page then asks for itself, as who it is by then: the stream tells nothing that somebody who was
logged out meanwhile should not know. No database connection is held between two looks.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

from asgiref.sync import sync_to_async
from django.db import connection

from accounts.models import User
from engines.cards import digest

STREAMS = 10
"""Of one user at once, in each process of pages. A page that gets none asks every few seconds."""
LOOK_S = 1.0
HEARTBEAT_S = 15.0
LONGEST_S = 1800.0

_open: Counter[int] = Counter()


def has_room(user_id: int) -> bool:
    return _open[user_id] < STREAMS


async def changes(user: User) -> AsyncIterator[bytes]:
    """Events until the client leaves, LONGEST_S are over, or the user is gone or disabled."""
    _open[user.pk] += 1
    try:
        yield b"retry: 3000\n\n"
        began = said = time.monotonic()
        before = None
        while time.monotonic() - began < LONGEST_S:
            now = await sync_to_async(_look, thread_sensitive=False)(user.pk)
            if now is None:
                return
            if before not in (None, now):
                said = time.monotonic()
                yield b"event: changed\ndata:\n\n"
            elif time.monotonic() - said > HEARTBEAT_S:
                said = time.monotonic()
                yield b": still here\n\n"
            before = now
            await asyncio.sleep(LOOK_S)
        yield b"event: over\ndata:\n\n"
    finally:
        _open[user.pk] -= 1
        if not _open[user.pk]:
            del _open[user.pk]


def _look(user_id: int) -> int | None:
    """In a thread of a pool, where nobody else gives the connection back."""
    try:
        user = User.objects.filter(pk=user_id, is_active=True).first()
        return None if user is None else digest(user)
    finally:
        connection.close()
