"""`/api/v1/usage/summary` reads sums by day and hour, and says what the records say: here they are added up, too."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import keys
from accounts.models import User
from engines.models import Engine
from inference import rollups
from inference.models import UsageRecord, UsageRollup

pytestmark = pytest.mark.django_db

SUMMARY = "/api/v1/usage/summary"
GROUPS = ("day", "model", "user", "key", "engine")
COUNTS = ("prompt_tokens", "cached_tokens", "generated_tokens")
# Two nights in which a clock was moved, as far as Berlin goes; the portal's days are those of UTC.
NIGHTS = [datetime(2030, 3, 31, tzinfo=UTC), datetime(2030, 10, 27, tzinfo=UTC)]
ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns")]


def moment(random: Random) -> datetime:
    """Often just where an hour or a day begins, or a millisecond beside it."""
    near = random.choice(NIGHTS) + timedelta(hours=random.randrange(-60, 60))
    off = random.choice([timedelta(0), timedelta(milliseconds=-1), timedelta(milliseconds=random.randrange(3_600_000))])
    return near + off


def written(random: Random, number: int, people) -> list[UsageRecord]:
    """Records of people with keys of the same name, engines, and of some that are gone."""
    users = [*people.values(), None]
    of_keys = {user: [keys.make(user, {"name": "ci"})[0] for _ in "ab"] for user in people.values()}
    engines = [Engine.objects.create(name=f"e{n}", model="m", launcher="process", device="cpu") for n in range(2)]
    rows = []
    for n in range(number):
        user = random.choice(users)
        row = UsageRecord(
            request_id=f"r{n}", user=user, api_key=random.choice([None, *of_keys.get(user, [])]),
            engine=random.choice([None, *engines]), model=random.choice(["a", "B", "é"]), path="/v1/x",
            prompt_tokens=random.randrange(50), cached_tokens=random.randrange(9), exact=True,
            generated_tokens=random.randrange(3), outcome=random.choice(["completed"] * 3 + ["aborted", "expired"]),
            started_at=moment(random), duration_ms=1,
        )  # fmt: skip
        rows.append(row)
    UsageRecord.objects.bulk_create(rows)
    for start in range(0, number, 20):  # as they come: a batch finds sums of the batches before it
        rollups.add(rows[start : start + 20])
    return rows


def group_of(row: UsageRecord, by: str) -> str:
    if by == "day":
        return row.started_at.date().isoformat()
    if by == "model":
        return row.model
    if by == "key":
        return row.api_key.name if row.api_key else "(none)"
    if by == "user":
        return row.user.username if row.user else "(removed)"
    return row.engine.name if row.engine else "(removed)"


def plain(rows, by: str) -> list[dict]:
    totals = defaultdict(lambda: dict.fromkeys(("requests", *COUNTS), 0))
    for row in rows:
        sums = totals[group_of(row, by)]
        sums["requests"] += 1
        for name in COUNTS:
            sums[name] += getattr(row, name)
    found = [{"group": group, **sums} for group, sums in totals.items()]
    return sorted(found, key=lambda row: (0 if by == "day" else -row["generated_tokens"], row["group"]))


@pytest.fixture
def ask(client_of, people):
    def get(who: str, by: str, after: datetime, before: datetime, **query) -> list[dict]:
        asked = {"started_after": after.isoformat(), "started_before": before.isoformat(), "group_by": by, **query}
        answer = client_of(people[who]).get(SUMMARY, asked)
        assert answer.status_code == 200, answer.content
        return answer.json()["results"]

    return get


@pytest.mark.parametrize("seed", range(3))
def test_it_says_what_the_records_say(ask, people, seed):
    random = Random(seed)
    rows = written(random, 250, people)
    for _ in range(15):
        after, before = sorted((moment(random), moment(random)))
        within = [row for row in rows if after <= row.started_at < before]
        after, before = (time.astimezone(random.choice(ZONES)) for time in (after, before))
        for by in GROUPS:
            assert ask("root", by, after, before) == plain(within, by)
            assert ask("alice", by, after, before) == plain([row for row in within if row.user == people["alice"]], by)
            outcome = random.choice(["completed", "aborted", "failed"])
            assert ask("root", by, after, before, outcome=outcome) == plain(
                [row for row in within if row.outcome == outcome], by
            )


@pytest.mark.parametrize("seed", range(3))
def test_each_filter_counts(ask, people, seed):
    random = Random(seed)
    rows = written(random, 200, people)
    one = random.choice([row for row in rows if row.user and row.api_key and row.engine])
    for query, chosen in (
        ({"model": one.model}, lambda row: row.model == one.model),
        ({"user": one.user_id}, lambda row: row.user_id == one.user_id),
        ({"api_key": one.api_key_id}, lambda row: row.api_key_id == one.api_key_id),
        ({"engine": one.engine_id, "outcome": "completed"},
         lambda row: row.engine_id == one.engine_id and row.outcome == "completed"),
        ({"model": "none such"}, lambda row: False),
    ):  # fmt: skip
        after, before = NIGHTS[0] - timedelta(hours=47, minutes=7), NIGHTS[1] + timedelta(hours=30, minutes=30)
        within = [row for row in rows if after <= row.started_at < before and chosen(row)]
        for by in GROUPS:
            assert ask("root", by, after, before, **query) == plain(within, by)


def test_whole_days_and_whole_hours_are_read_as_such(ask, people):
    day = NIGHTS[0]
    for period, start, requests in (
        ("day", day, 10**6),
        ("hour", day, 10**9),  # within the whole day
        ("hour", day - timedelta(hours=1), 1000),
        ("hour", day - timedelta(hours=2), 10**9),  # not whole
        ("hour", day + timedelta(hours=24), 2000),
        ("hour", day + timedelta(hours=25), 10**9),  # not whole
        ("day", day + timedelta(days=1), 10**9),  # not whole
    ):
        UsageRollup.objects.create(period=period, start=start, user=people["alice"], model="m", requests=requests)
    spans = {
        (day - timedelta(minutes=61), day + timedelta(hours=25, minutes=59)): 1_003_000,
        (day - timedelta(hours=1), day + timedelta(hours=25)): 1_003_000,
        (day, day + timedelta(days=1)): 10**6,
        (day + timedelta(hours=24), day + timedelta(hours=25)): 2000,
        (day + timedelta(hours=24, minutes=1), day + timedelta(hours=24, minutes=59)): 0,
    }
    for (after, before), requests in spans.items():
        assert sum(row["requests"] for row in ask("root", "model", after, before)) == requests


def test_parts_that_are_alike_count_each(ask, people):
    start = NIGHTS[0] - timedelta(minutes=90)
    rows = [
        UsageRecord(
            request_id=f"r{n}", user=people["bob"], model="m", path="/v1/x", prompt_tokens=5, generated_tokens=1,
            exact=True, outcome="completed", started_at=start + timedelta(hours=n), duration_ms=1,
        )
        for n in range(28)
    ]  # fmt: skip
    UsageRecord.objects.bulk_create(rows)
    rollups.add(rows)
    assert ask("root", "model", start, start + timedelta(hours=28)) == plain(rows, "model")


def test_a_user_who_is_removed_stays_in_the_sums(ask, people):
    rows = written(Random(1), 100, people)
    User.objects.get(username="alice").delete()
    rows = list(UsageRecord.objects.filter(pk__in=[row.pk for row in rows]))
    span = NIGHTS[0] - timedelta(days=5), NIGHTS[1] + timedelta(days=5)
    assert {row["group"] for row in ask("root", "user", *span)} == {"root", "bob", "(removed)"}
    for by in GROUPS:
        assert ask("root", by, *span) == plain(rows, by)


@pytest.mark.parametrize("by", GROUPS)
def test_more_records_are_no_more_queries(ask, people, by):
    def queries() -> int:
        with CaptureQueriesContext(connection) as asked:
            ask("root", by, NIGHTS[0] - timedelta(hours=50, minutes=1), NIGHTS[1], outcome="completed")
        return len(asked)

    row = written(Random(2), 20, people)[0]
    few = queries()
    more = [
        UsageRecord(
            request_id=f"more{n}", user=row.user, model=f"m{n}", path="/v1/x", prompt_tokens=1, generated_tokens=1,
            exact=True, outcome="completed", started_at=row.started_at + timedelta(minutes=n), duration_ms=1,
        )
        for n in range(100)
    ]  # fmt: skip
    UsageRecord.objects.bulk_create(more)
    rollups.add(more)
    assert queries() == few <= 6
