"""`/api/v1/usage` and its sums."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import connection

from accounts import keys
from inference import rollups
from inference.models import UsageRecord

pytestmark = pytest.mark.django_db

USAGE = "/api/v1/usage"
NOW = datetime.now(UTC)


@pytest.fixture
def record(people):
    def make(user="alice", days_ago=0, model="tiny", prompt=10, generated=3, **columns):
        number = UsageRecord.objects.count()
        row = UsageRecord.objects.create(
            request_id=f"r{number}", user=people[user] if user else None, model=model, path="/v1/x",
            prompt_tokens=prompt, generated_tokens=generated, exact=True,
            outcome="completed", started_at=NOW - timedelta(days=days_ago, minutes=1), duration_ms=1, **columns,
        )  # fmt: skip
        rollups.add([row])
        return row

    return make


@pytest.fixture
def get(client_of, people):
    return lambda path, who="alice", **query: client_of(people[who]).get(path, query)


def test_everybody_sees_their_own_records_and_an_admin_all(get, record, people):
    mine, his = record(), record("bob")
    record(None)
    assert [row["id"] for row in get(USAGE).json()["results"]] == [mine.pk]
    assert len(get(USAGE, "root").json()["results"]) == 3
    assert [row["id"] for row in get(USAGE, "root", user=people["bob"].pk).json()["results"]] == [his.pk]
    assert get(USAGE, user_id=people["bob"].pk).json()["results"][0]["id"] == mine.pk
    assert get(f"{USAGE}/{his.pk}").status_code == 404
    assert get(f"{USAGE}/{mine.pk}/").json()["request_id"] == mine.request_id


def test_records_are_filtered_and_come_latest_first_in_pages(get, record):
    rows = [record(days_ago=days, model=model) for days, model in ((0, "a"), (1, "b"), (2, "a"), (3, "a"))]
    assert [row["id"] for row in get(USAGE, model="a").json()["results"]] == [rows[0].pk, rows[2].pk, rows[3].pk]
    since = (NOW - timedelta(days=1, hours=1)).isoformat()
    assert len(get(USAGE, started_after=since).json()["results"]) == 2
    first = get(USAGE, limit=3).json()
    assert len(first["results"]) == 3
    assert first["next"]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL reads a small table as a whole, as it should")
@pytest.mark.parametrize("column", [None, "user", "api_key", "engine", "model", "outcome"])
@pytest.mark.parametrize("order", [("-started_at", "-id"), ("started_at", "id")])
def test_each_filter_has_an_index_in_the_order_of_the_list(column, order):
    asked = {column: uuid4() if column == "engine" else 1} if column else {}
    plan = UsageRecord.objects.filter(**asked).order_by(*order)[:50].explain()
    assert "USING INDEX" in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize(
    "query",
    [
        {"started_after": "yesterday"}, {"engine": "x"}, {"outcome": "good"}, {"user": "x"}, {"api_key": "9" * 30},
        {"api_key": "1e999"}, {"user": "nan"},
    ],
)  # fmt: skip
def test_a_filter_that_makes_no_sense_is_named(get, query):
    answer = get(USAGE, "root", **query)
    assert (answer.status_code, list(answer.json())) == (400, list(query))


def test_sums_by_each_group(get, record, alice):
    key, _ = keys.make(alice, {"name": "ci"})
    record(model="a", api_key=key)
    record(model="b", generated=50, days_ago=1)
    record("bob", model="b")
    record(days_ago=40)
    assert get(f"{USAGE}/summary").json()["results"] == [
        {
            "group": (NOW - timedelta(days=days, minutes=1)).date().isoformat(),
            "requests": 1,
            "prompt_tokens": 10,
            "cached_tokens": 0,
            "generated_tokens": generated,
        }
        for days, generated in ((1, 50), (0, 3))
    ]

    def groups(by, user="alice"):
        rows = get(f"{USAGE}/summary", user, group_by=by).json()["results"]
        return [(row["group"], row["requests"], row["generated_tokens"]) for row in rows]

    assert groups("model") == [("b", 1, 50), ("a", 1, 3)]
    assert groups("user", "root") == [("alice", 2, 53), ("bob", 1, 3)]
    assert groups("key") == [("(none)", 1, 50), ("ci", 1, 3)]
    assert groups("engine") == [("(removed)", 2, 53)]


@pytest.mark.parametrize(
    "query", [{"group_by": "moon"}, {"started_after": "2000-01-01T00:00:00Z"}, {"as": "xml"}, {"started_before": "x"}]
)
def test_a_sum_that_cannot_be_made_is_refused(get, query):
    assert get(f"{USAGE}/summary", **query).status_code == 400


def test_a_table_holds_no_formula(get, record):
    record(model="=HYPERLINK(1)")
    answer = get(f"{USAGE}/summary", group_by="model", **{"as": "csv"})
    assert answer["content-type"].startswith("text/csv")
    assert answer["content-disposition"] == 'attachment; filename="usage-by-model.csv"'
    assert answer.content.decode().splitlines() == [
        "group,requests,prompt_tokens,cached_tokens,generated_tokens",
        "'=HYPERLINK(1),1,10,0,3",
    ]
