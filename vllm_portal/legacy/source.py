"""A SQLite file of the original, read and never changed."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from vllm_portal.errors import OperatorError
from vllm_portal.legacy.report import Report

_BESIDE = ("-wal", "-journal")


class Unreadable(Exception):
    """A row or a value is not what it should be. Says why, in words without the value: it may be private."""


class Row(NamedTuple):
    """`values` by column name in lower case: None, int, float, or bytes (texts and blobs alike)."""

    rowid: int
    values: dict[str, object]

    def first(self, *columns: str) -> object:
        """The first of these columns that is there and not NULL; None: there is none."""
        return next((self.values[column] for column in columns if self.values.get(column) is not None), None)


class Source:
    """Open it with `with`. Texts come as bytes: one that is not UTF-8 must not end the reading of a table."""

    def __init__(self, path: Path, report: Report) -> None:
        """Raises OperatorError: there is no such file, or it is no SQLite database."""
        self.path = path
        self._report = report
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._database = self._open()
            self.columns = self._read_columns()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise OperatorError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def _open(self) -> sqlite3.Connection:
        with self.path.open("rb"):  # names what is wrong better than SQLite does
            pass
        path = self.path.resolve()
        beside = [path.with_name(path.name + suffix) for suffix in _BESIDE]
        beside = [file for file in beside if file.exists() and file.stat().st_size]
        if beside:
            # SQLite would write what is in there into the file: let it do so with a copy.
            self._copy = tempfile.TemporaryDirectory(prefix="portal-import-")
            path, *_ = [Path(shutil.copyfile(file, Path(self._copy.name) / file.name)) for file in (path, *beside)]
        database = sqlite3.connect(path.as_uri() + ("" if beside else "?mode=ro&immutable=1"), uri=True)
        database.text_factory = bytes
        return database

    def _read_columns(self) -> dict[str, list[str]]:
        """Each table's columns, both in lower case."""
        tables = self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        names = [name.decode(errors="replace") for (name,) in tables]
        return {
            name.lower(): [column[1].decode(errors="replace").lower() for column in self._pragma(name)]
            for name in names
        }

    def _pragma(self, table: str) -> list[tuple[int, bytes]]:
        return self._database.execute(f"PRAGMA table_info({_quoted(table)})").fetchall()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def close(self) -> None:
        if database := getattr(self, "_database", None):
            database.close()
        if self._copy:
            self._copy.cleanup()

    def count(self, table: str) -> int:
        """0 for a table that is missing or damaged."""
        if table not in self.columns:
            return 0
        try:
            return self._database.execute(f"SELECT count(*) FROM {_quoted(table)}").fetchone()[0]  # noqa: S608
        except sqlite3.DatabaseError:
            return 0

    def rows(self, table: str, without: str = "") -> Iterator[Row]:
        """All rows in the order of `id`, of `rowid` where there is none; without one column, which may be large. No
        row of a table that is missing; where the file is damaged they end, and the report says so."""
        if table not in self.columns:
            return
        try:
            yield from self._rows(table, without)
        except sqlite3.DatabaseError as error:
            self._report.problem(table, None, f"cannot be read any further: {error}")

    def _rows(self, table: str, without: str) -> Iterator[Row]:
        columns = [column for column in self.columns[table] if column != without]
        order = "id, rowid" if "id" in columns else "rowid"
        names = ", ".join(_quoted(name) for name in columns)
        query = f"SELECT rowid, {names} FROM {_quoted(table)} ORDER BY {order}"  # noqa: S608
        for rowid, *values in self._database.execute(query):
            yield Row(rowid, dict(zip(columns, values, strict=True)))

    def value(self, table: str, column: str, rowid: int) -> object:
        """Of one row; None where there is no such column. Raises Unreadable where the file is damaged."""
        if column not in self.columns.get(table, ()):
            return None
        query = f"SELECT {_quoted(column)} FROM {_quoted(table)} WHERE rowid = ?"  # noqa: S608
        try:
            return self._database.execute(query, [rowid]).fetchone()[0]
        except sqlite3.DatabaseError:
            raise Unreadable(f"{column} is in a damaged part of the file") from None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
