"""Django's SQLite backend, whose connections are kept when they are closed, as those to PostgreSQL are in a pool.

A new connection reads the schema and is given Django's functions: 2 ms of CPU, more than most of what it is asked. Each
request of a page and each look-up of a caller would have one of its own.
"""

import atexit
import sqlite3
from collections import defaultdict, deque
from typing import Any

from django.db.backends.sqlite3 import base

MOST = 8

_kept: dict[str, deque[sqlite3.Connection]] = defaultdict(deque)
"""By the database's path. Any thread may take one."""


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> sqlite3.Connection:
        try:
            return _kept[str(conn_params["database"])].pop()
        except IndexError:
            return super().get_new_connection(conn_params)

    def _close(self) -> None:
        connection = self.connection
        kept = _kept[str(self.settings_dict["NAME"])]
        # In a transaction something went wrong, and an error may be the connection's own.
        if connection is None or connection.in_transaction or self.errors_occurred or len(kept) >= MOST:
            super()._close()
        else:
            kept.append(connection)

    def close_pool(self) -> None:
        """Before a process forks: a connection must not be used by two."""
        kept = _kept.pop(str(self.settings_dict["NAME"]), deque())
        while kept:
            kept.pop().close()


@atexit.register
def _close_all() -> None:
    """The last one to close moves what is in the write-ahead log into the database's file."""
    for kept in _kept.values():
        while kept:
            kept.pop().close()
