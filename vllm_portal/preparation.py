"""What must be done before a process of the portal starts: a database that opens, its tables, the first admin.

`manage.py run` and `manage.py setup` share it. It needs Django. It may run any number of times.
"""

import logging
import sqlite3
import time
from pathlib import Path

from django.core.management import call_command
from django.db import DatabaseError, connection, connections
from django.db.migrations.exceptions import BadMigrationError, InconsistentMigrationHistory
from django.db.migrations.executor import MigrationExecutor

from accounts.first_admin import FirstAdmin, ensure_admin
from vllm_portal.errors import OperatorError
from vllm_portal.log import redact

_CHECK_SECONDS = 0.5  # of looking for damage in a large SQLite file; longer would delay each start


def prepare() -> FirstAdmin:
    """All of it. Leaves no connection open. Raises OperatorError with the one sentence that the operator needs."""
    try:
        check_database()
        migrate()
        return ensure_admin()
    except DatabaseError as error:
        raise OperatorError(f"the database cannot be used: {_one_line(error)}") from None
    except (BadMigrationError, InconsistentMigrationHistory) as error:
        raise OperatorError(f"the database's tables do not fit this version: {_one_line(error)}") from None
    finally:
        connections.close_all()
        connection.close_pool()  # PostgreSQL's has threads, and processes are forked after this


def check_database() -> None:
    """The database opens and is whole, as far as can be seen in half a second."""
    if connection.vendor == "sqlite":
        _check_sqlite()
    else:
        _check_postgresql()


def migrate() -> None:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", verbosity=0, interactive=False)


def _check_sqlite() -> None:
    path = connection.settings_dict["NAME"]
    try:
        Path(path).touch(mode=0o600)  # it holds password hashes; its -wal and -shm follow its rights
        connection.ensure_connection()
        deadline = time.monotonic() + _CHECK_SECONDS
        connection.connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA quick_check(1)")
            verdict = cursor.fetchone()[0]
    except OSError as error:
        raise OperatorError(f"cannot open the database {path}: {error.strerror}") from None
    except DatabaseError as error:
        code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF  # the kinds of damage are in the higher bits
        if code == sqlite3.SQLITE_INTERRUPT:
            return
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise _damaged(path, _one_line(error)) from None
        raise OperatorError(f"cannot open the database {path}: {_one_line(error)}") from None
    finally:
        if connection.connection is not None:
            connection.connection.set_progress_handler(None, 0)
    if verdict != "ok":
        raise _damaged(path, verdict.strip().splitlines()[-1])


def _damaged(path: object, cause: str) -> OperatorError:
    return OperatorError(f"{path} is damaged ({cause}): move it away or restore a backup")


def _check_postgresql() -> None:
    """Connects once without the pool, which would hide the cause and take its ten seconds."""
    parameters = {**connection.get_connection_params(), "connect_timeout": 5}
    try:
        connection.Database.connect(**parameters).close()
    except connection.Database.Error as error:
        host = parameters.get("host") or "the local socket"
        raise OperatorError(
            f"PostgreSQL at {host} cannot be used ({_one_line(error)}): look at PORTAL_DATABASE_URL"
        ) from None
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _one_line(error: Exception) -> str:
    return redact(" ".join(str(error).split()))
