"""Many rows written by one statement, where the ORM makes, and parses, one for each or builds it anew value by value:
that was half of what a record costs."""

from collections.abc import Sequence

from django.db import connection
from django.db.models import Model


def insert(table: type[Model], fields: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
    """Each row has the values of `fields`, as the database takes them (see `prepared`), and of all fields that have no
    default in the database."""
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
