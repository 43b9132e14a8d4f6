"""Many rows read or written by one statement, as the database has them. The ORM makes each statement anew for each row
or value, and an object of each value: that was half of what a record costs.

Values go in and come out as the database takes them: see `prepared` and `moments`.
"""

import json
from collections.abc import Collection, Hashable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Model

_EPOCH = datetime(1970, 1, 1)  # without a time zone: SQLite's times are UTC, and do not say so


def select(table: type[Model], fields: Sequence[str], *, lock: bool = False, **where: object) -> list[tuple[Any, ...]]:
    """Those where each field has the value, or one of the set of values. In the order of the first field, in which they
    are locked, too, until the transaction ends, where that is asked for and the database can."""
    quoted = connection.ops.quote_name
    names = [quoted(table._meta.get_field(name).column) for name in fields]
    conditions, values = [], []
    for name, value in where.items():
        several = isinstance(value, set | frozenset)
        test, value = _one_of(value) if several else ("= %s", value)  # type: ignore[arg-type]
        conditions.append(f"{quoted(table._meta.get_field(name).column)} {test}")
        values.append(value)
    ending = " FOR UPDATE" if lock and connection.features.has_select_for_update else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(names)} FROM {quoted(table._meta.db_table)}"  # noqa: S608  (names of our tables)
            f" WHERE {' AND '.join(conditions)} ORDER BY {names[0]}{ending}",
            values,
        )
        return cursor.fetchall()


def _one_of(values: Collection[object]) -> tuple[str, object]:
    """As one value, whose number of parts no database limits, and not one each."""
    if connection.vendor == "sqlite":
        return "IN (SELECT value FROM json_each(%s))", json.dumps(list(values))
    return "= ANY(%s)", list(values)


def among(table: type[Model], field: str, values: Iterable[object], *, lock: bool = False) -> set[Any]:
    """Which of these values there are; with `lock` as `select`."""
    return {value for (value,) in select(table, [field], lock=lock, **{field: frozenset(values)})}


def insert(table: type[Model], fields: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
    """Each row has the values of `fields`, and of all fields that have no default in the database."""
    if not rows:
        return
    quoted = connection.ops.quote_name
    names = ", ".join(quoted(table._meta.get_field(name).column) for name in fields)
    places = ", ".join(["%s"] * len(fields))
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {quoted(table._meta.db_table)} ({names}) VALUES ({places})", rows)  # noqa: S608


def increment(table: type[Model], by: str, fields: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
    """Each row: the value of the field `by`, then what is added to each of `fields`. In the order given."""
    if not rows:
        return
    quoted = connection.ops.quote_name
    names = [quoted(table._meta.get_field(name).column) for name in fields]
    sums = ", ".join(f"{name} = {name} + %s" for name in names)
    key = quoted(table._meta.get_field(by).column)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE {quoted(table._meta.db_table)} SET {sums} WHERE {key} = %s",  # noqa: S608  (names of our tables)
            [(*more, value) for value, *more in rows],
        )


def prepared(table: type[Model], field: str, value: object) -> object:
    """As the database takes it: times and UUIDs differ."""
    return table._meta.get_field(field).get_db_prep_save(value, connection)


def prepared_all(table: type[Model], field: str, values: Iterable[Hashable]) -> dict[Any, object]:
    """How the database takes each of these."""
    return {value: prepared(table, field, value) for value in values}


def moments(times_ms: Iterable[int]) -> list[object]:
    """Unix times in ms, likewise, at a fifth of the cost."""
    if connection.vendor == "sqlite":
        return [str(_EPOCH + timedelta(milliseconds=time_ms)) for time_ms in times_ms]
    return [datetime.fromtimestamp(time_ms / 1000, UTC) for time_ms in times_ms]
