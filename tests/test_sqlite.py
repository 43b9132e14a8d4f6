"""Connections to SQLite that are closed are kept for whoever opens one next."""

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import OperationalError, connection, transaction

from accounts.models import User
from tests.threads import lent
from vllm_portal.sqlite import base

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL has a pool of its own"),
]


@pytest.fixture(autouse=True)
def nothing_kept():
    connection.close_pool()
    yield
    connection.close_pool()


def used():
    """The connection beneath Django's."""
    connection.ensure_connection()
    return connection.connection


def test_the_next_one_is_the_last_one():
    first = used()
    connection.close()
    assert used() is first
    assert User.objects.count() == 0


def test_another_thread_takes_it():
    first = used()
    connection.close()

    def write():
        User.objects.create_user("alice", password=None)
        return connection.connection

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(lent(write)).result() is first
    assert User.objects.count() == 1


def test_two_at_once_have_one_each_and_few_are_kept():
    def let_go() -> None:  # of this thread's own
        connection.close()

    with contextlib.ExitStack() as threads:
        pools = [threads.enter_context(ThreadPoolExecutor(1)) for _ in range(base.MOST + 3)]
        held = [pool.submit(used).result() for pool in pools]
        assert len(set(held)) == len(held)
        for pool in pools:
            pool.submit(let_go).result()
    assert len(base._kept[str(connection.settings_dict["NAME"])]) == base.MOST


def test_one_that_is_old_is_not_used_again(monkeypatch):
    """What it knows of the statistics is as old as itself."""
    first = used()
    connection.close()
    monkeypatch.setattr(base, "AGE_S", 0.0)
    assert used() is not first
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        first.execute("SELECT 1")


def test_what_was_not_read_to_its_end_hides_nothing_that_comes_later():
    User.objects.bulk_create([User(username=f"user-{number}") for number in range(200)])
    first = used()
    half_read = User.objects.iterator(chunk_size=1)
    next(half_read)
    connection.close()

    def write():
        opened = sqlite3.connect(str(connection.settings_dict["NAME"]))
        with contextlib.closing(opened), opened:
            opened.execute("DELETE FROM accounts_user")

    write()
    assert used() is first
    assert User.objects.count() == 0
    del half_read


def test_one_with_an_open_transaction_is_not_kept():
    first = used()
    with contextlib.suppress(transaction.TransactionManagementError), transaction.atomic():
        User.objects.create_user("alice", password=None)
        connection.close()
    connection.close()
    assert used() is not first
    assert User.objects.count() == 0


def test_one_that_failed_is_not_kept():
    first = used()
    with pytest.raises(OperationalError), connection.cursor() as cursor:
        cursor.execute("SELECT * FROM no_such_table")
    connection.close()
    assert used() is not first
