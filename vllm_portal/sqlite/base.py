"""Django's SQLite backend, whose connections are kept when they are closed, as those to PostgreSQL are in a pool.

A new connection reads the schema and is given Django's functions: 2 ms of CPU, more than most of what it is asked. Each
request of a page and each look-up of a caller would have one of its own.
"""

import atexit
import sqlite3
import time
from collections import defaultdict, deque
from typing import Any
from weakref import WeakSet

from django.db.backends.sqlite3 import base

MOST = 8
AGE_S = 300.0
"""No longer: what a connection has read of the statistics, by which SQLite plans, it does not read again."""

_kept: dict[str, deque[tuple[sqlite3.Connection, float]]] = defaultdict(deque)
"""By the database's path, with the time at which each was opened. Any thread may take one."""


class DatabaseWrapper(base.DatabaseWrapper):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def create_cursor(self, name: str | None = None) -> sqlite3.Cursor:
        cursor = super().create_cursor(name)
        self._cursors.add(cursor)
        return cursor

    def get_new_connection(self, conn_params: dict[str, Any]) -> sqlite3.Connection:
        kept = _kept[str(conn_params["database"])]
        now = time.monotonic()
        while kept:
            try:
                connection, self._opened = kept.pop()
            except IndexError:  # another thread was faster
                break
            if now - self._opened < AGE_S:
                return connection
            connection.close()
        self._opened = now
        return super().get_new_connection(conn_params)

    def _close(self) -> None:
        connection = self.connection
        kept = _kept[str(self.settings_dict["NAME"])]
        cursors, self._cursors = self._cursors, WeakSet()
        # In a transaction something went wrong, and an error may be the connection's own.
        if connection is None or connection.in_transaction or self.errors_occurred or len(kept) >= MOST:
            super()._close()
            return
        # One from which not all was read holds the database as it was then, for whoever takes the connection next.
        for cursor in cursors:
            cursor.close()
        kept.append((connection, self._opened))

    def close_pool(self) -> None:
        """Before a process forks: a connection must not be used by two."""
        _close_all(str(self.settings_dict["NAME"]))


def _close_all(name: str) -> None:
    kept = _kept[name]
    while kept:
        kept.pop()[0].close()


@atexit.register
def _at_the_end() -> None:
    """The last one to close moves what is in the write-ahead log into the database's file."""
    for name in _kept:
        _close_all(name)
