"""The admin's list of usage records: what is found, and that it stays quick when there are many."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from engines.models import Engine
from inference import admin
from inference.models import UsageRecord

RECORDS = "/admin/inference/usagerecord/"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def records(people):
    Engine.objects.create(name="e", model="acme/large", launcher="process", device="cpu")
    return [
        UsageRecord.objects.create(
            request_id=f"{n}0123456789abcdef", user=people.get(user), model=model, path="/v1/x", prompt_tokens=1,
            generated_tokens=1, exact=True, outcome="completed", started_at=NOW - timedelta(hours=n), duration_ms=1,
        )
        for n, (user, model) in enumerate([("alice", "acme/large"), ("bob", "acme/small"), ("", "acme/large")])
    ]  # fmt: skip


@pytest.fixture
def listed(client, root, records):
    client.force_login(root)
    return lambda **query: list(client.get(RECORDS, query).context["cl"].result_list)


def test_the_latest_come_first(listed, records):
    assert listed() == records


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ("ALI", [0]),  # of a user's name
        ("large", [0, 2]),  # of an engine's model
        ("acme/small", [1]),  # a model whose engine is gone
        ("10123456789abcdef", [1]),
        ("0123456789abcdef", []),
        ("nobody", []),
        (" ", [0, 1, 2]),
    ],
)
def test_what_a_search_finds(listed, records, term, found):
    assert listed(q=term) == [records[n] for n in found]


def test_a_search_asks_for_nothing_that_would_read_each_record(listed):
    with CaptureQueriesContext(connection) as asked:
        listed(q="alice")
    of_records = [query["sql"] for query in asked if 'FROM "inference_usagerecord"' in query["sql"]]
    assert of_records
    assert not [sql for sql in of_records if "LIKE" in sql.upper()]


def test_of_many_the_first_are_counted_and_listed(listed, records, client, monkeypatch):
    assert listed(p=1) == records
    monkeypatch.setattr(admin.FirstPages, "most", 2)
    monkeypatch.setattr(admin.UsageRecordAdmin, "list_per_page", 1)
    changes = client.get(RECORDS, {"p": 2}).context["cl"]
    assert (changes.result_count, list(changes.result_list)) == (2, [records[1]])
    assert "e=1" in client.get(RECORDS, {"p": 3}).url


def test_only_an_index_gives_the_order(client, root, records):
    client.force_login(root)
    page = client.get(RECORDS).content.decode()
    assert len(re.findall(r'<a href="\?o=[^"]*">', page)) == 1
