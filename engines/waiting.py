"""Waits in a request for what the worker does to an engine, by looking at its row."""

import time
import uuid
from collections.abc import Collection

from django.db import connection

from engines.models import Engine
from engines.states import State

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5


def wait_for(engine_id: uuid.UUID, states: Collection[State], timeout_s: float) -> Engine | None:
    """The engine as it is when it comes into one of the states, or when the time is over. None: its row is gone.

    Looks often at first and less often later: an answer comes at most a twentieth of the waiting time late.
    """
    begun = time.monotonic()
    while True:
        engine = Engine.objects.select_related("owner").filter(pk=engine_id).first()
        waited = time.monotonic() - begun
        if engine is None or engine.state in states or waited >= timeout_s:
            return engine
        release_database()
        pause = min(max(waited / 20, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
        time.sleep(max(min(pause, timeout_s - waited), 0.001))


def release_database() -> None:
    """Hands the connection back while nothing is asked of the database; the next query gets another."""
    if not connection.in_atomic_block:
        connection.close()
