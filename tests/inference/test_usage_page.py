"""The page /usage: whose numbers it shows, and that they are those of the records."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db.models import Sum
from django.test import Client
from django.utils import timezone

from accounts import keys, quotas
from accounts.models import User
from engines.models import Engine, EngineEvent
from inference import everybodys_usage, rollups
from inference.models import UsageDigest, UsageRecord
from inference.plots import by_day, over_time, rounded_up
from inference.usage_figures import figures

MOST_QUERIES = 15


@pytest.fixture
def spend():
    """spend(user, days_ago, prompt, generated, …): a record, as the ledger writes it."""

    def write(user, days_ago: int, prompt: int, generated: int, model: str = "tiny", **columns) -> UsageRecord:
        began = timezone.now() - timedelta(days=days_ago, seconds=1)
        record = UsageRecord(
            request_id=f"r{UsageRecord.objects.count()}", user=user, model=model, path="/v1/chat/completions",
            prompt_tokens=prompt, generated_tokens=generated, exact=True, outcome="completed", duration_ms=5,
            started_at=began, **columns,
        )  # fmt: skip
        record.save()
        rollups.add([record])
        return record

    return write


def seen_by(user, query: str = "") -> str:
    client = Client()
    client.force_login(user)
    answer = client.get(f"/usage{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def test_it_is_for_who_is_logged_in(db):
    answer = Client().get("/usage")
    assert (answer.status_code, answer["Location"]) == (302, "/login/?next=/usage")
    assert Client().post("/usage").status_code in (302, 405)


def test_a_user_sees_their_own_use_alone(alice, bob, root, spend):
    key, _ = keys.make(alice, {"name": "notebook"})
    spend(alice, 0, 1200, 34, model="alices-model", api_key=key)
    spend(bob, 0, 77777, 88888, model="bobs-model")
    for query in ("", "?whose=everybody", "?user=" + str(bob.pk)):
        page = seen_by(alice, query)
        assert "1,200" in page
        assert "alices-model" in page
        assert "notebook" in page
        assert "77,777" not in page
        assert "bobs-model" not in page
        assert 'id="by-user"' not in page


def test_an_admin_sees_everybodys_or_their_own(alice, bob, root, spend):
    spend(alice, 0, 1000, 1)
    spend(bob, 1, 2000, 2)
    spend(root, 1, 400, 3, model="roots-model")
    page = seen_by(root)
    assert "3,400" in page
    assert re.search(r'id="by-user".*alice.*bob|id="by-user".*bob.*alice', page, re.DOTALL)
    mine = seen_by(root, "?whose=mine")
    assert "3,400" not in mine
    assert "alice" not in mine
    assert "roots-model" in mine


def test_everybodys_numbers_are_not_remembered_for_one_user(alice, root, spend):
    spend(root, 0, 5555, 1)
    assert "5,555" in seen_by(root)
    assert "5,555" not in seen_by(alice)


def test_everybodys_numbers_are_summed_up_beforehand(alice, root, spend):
    spend(alice, 0, 1111, 1)
    everybodys_usage.keep_up(now := timezone.now())
    spend(alice, 0, 2222, 1)
    page = seen_by(root)
    assert "1,111" in page
    assert "3,333" not in page
    assert f"As of {now:%Y-%m-%d %H:%M}" in page
    UsageDigest.objects.update(took_ms=1)  # whatever this machine does meanwhile
    everybodys_usage.keep_up(now + timedelta(seconds=everybodys_usage.AGE_S + 1))
    assert "3,333" in seen_by(root)


def test_what_took_long_is_not_summed_up_again_soon(alice, spend):
    now = timezone.now()
    spend(alice, 0, 1, 1)
    everybodys_usage.keep_up(now)
    UsageDigest.objects.update(took_ms=1)
    UsageDigest.objects.filter(days=365).update(took_ms=60_000)
    everybodys_usage.keep_up(now + timedelta(minutes=5))
    assert [digest.days for digest in UsageDigest.objects.filter(as_of=now)] == [365]


def test_where_the_worker_is_gone_the_page_sums_up_itself(alice, root, spend):
    spend(alice, 0, 1111, 1)
    assert "1,111" in seen_by(root)
    spend(alice, 0, 2222, 1)
    UsageDigest.objects.update(as_of=timezone.now() - timedelta(seconds=101), took_ms=5)
    assert "3,333" in seen_by(root)


@pytest.mark.parametrize("days", ["", "7", "30", "x", "-1", "31", "9" * 400, "%00"])
def test_a_period_is_one_of_those_offered(alice, spend, days):
    spend(alice, 0, 10, 1)
    spend(alice, 10, 400, 1)
    page = seen_by(alice, f"?days={days}")
    assert ("410" in page) == (days != "7")
    assert page.count("<title>2") == (1 if days == "7" else 2)


def test_the_csv_says_the_same(alice, bob, spend):
    spend(alice, 3, 1200, 34)
    spend(bob, 3, 1, 1)
    client = Client()
    client.force_login(alice)
    page = client.get("/usage").content.decode()
    links = [link.replace("&amp;", "&") for link in re.findall(r'href="(/api/v1/usage/summary[^"]+)"', page)]
    assert len(links) == 3
    files = [client.get(link).content.decode() for link in links]
    assert all("1200,0,34" in text and text.count("\n") == 2 for text in files), files


def test_a_name_is_text(alice, spend):
    spend(alice, 0, 1, 1, model="<script>hit()</script>")
    page = seen_by(alice)
    assert "&lt;script&gt;hit()" in page
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=|javascript:", page)


def test_what_is_left_is_said_with_when_it_is_full_again(alice):
    quotas.set_limits(alice, prompt=5000, generated=0)
    quotas.set_paces(alice, {"tokens_per_day": 700})
    page = seen_by(alice)
    assert "5,000 left" in page
    assert "700 left" in page
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    assert f"full again at {tomorrow:%Y-%m-%d} 00:00 UTC" in page


def test_gpu_hours_are_those_of_ones_own_engines(alice, bob, spend):
    now = timezone.now()
    for owner, name in ((alice, "alices-engine"), (bob, "bobs-engine")):
        engine = Engine.objects.create(
            owner=owner, name=name, model="m", launcher="docker", device="cuda", tensor_parallel_size=2
        )
        Engine.objects.filter(pk=engine.pk).update(created_at=now - timedelta(hours=5))
        for hours, state in ((5, "QUEUED"), (4, "PLACED"), (3, "READY"), (1, "STOPPED")):
            EngineEvent.objects.create(engine=engine, at=now - timedelta(hours=hours), new_state=state)
    page = seen_by(alice)
    assert "bobs-engine" not in page
    row = re.search(r"alices-engine.*?</tr>", page, re.DOTALL)[0]
    assert re.findall(r"<td>([^<]+)</td>", row) == ["2", "6.0", "4.0", "67 %"]


@pytest.mark.parametrize("path", ["/usage", "/usage?whose=mine", "/keys", "/playground"])
@pytest.mark.parametrize("who", ["alice", "root"])
def test_a_page_asks_the_database_a_few_times_however_much_there_is(
    people, spend, django_assert_max_num_queries, who, path
):
    user = people[who]
    for number in range(12):
        key, _ = keys.make(user, {"name": f"k{number}", "tokens_per_day": 5, "requests_per_minute": 3})
        spend(user, number, 5, 5, model=f"m{number}", api_key=key)
        Engine.objects.create(owner=user, name=f"e{number}", model="m", launcher="docker", device="cuda", state="READY")
    everybodys_usage.keep_up(timezone.now())
    client = Client()
    client.force_login(user)
    with django_assert_max_num_queries(MOST_QUERIES):
        assert client.get(path).status_code == 200


def test_sqlite_looks_up_one_users_sums_once_it_has_counted(alice, bob, spend):
    from django.db import connection

    from inference.models import UsageRollup
    from inference.tasks import refresh_statistics

    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL counts by itself")
    for number in range(60):
        user = alice if number == 0 else User.objects.create_user(f"u{number}")
        spend(user, number % 5, 1, 1)
    refresh_statistics()
    of_alice = UsageRollup.objects.filter(user=alice, period="day", start__gte=timezone.now() - timedelta(days=30))
    assert "user_id=?" in of_alice.values("model").annotate(Sum("requests")).order_by().explain()


def test_each_model_and_key_has_its_days_drawn(alice, spend):
    key, _ = keys.make(alice, {"name": "notebook"})
    spend(alice, 0, 30, 10, model="m", api_key=key)
    spend(alice, 6, 5, 5, model="m")
    model, of_key = figures(7, alice, timezone.now())["groups"]
    assert [(row["group"], row["by_day"]) for row in model["rows"]] == [("m", [10, 0, 0, 0, 0, 0, 40])]
    assert [(row["group"], row["by_day"]) for row in of_key["rows"]] == [
        ("notebook", [0, 0, 0, 0, 0, 0, 40]), ("(none)", [10, 0, 0, 0, 0, 0, 0]),
    ]  # fmt: skip
    assert seen_by(alice, "?days=7").count('<path d="M0 20V') == 3


# The drawing


def test_a_course_is_as_high_as_its_largest_day():
    assert over_time([5, 0, 10]) == "M0 20V10.0h33.33V20.0h33.33V0.0h33.33V20Z"
    assert over_time([0, 0]) == over_time([]) == ""


def test_many_days_are_drawn_in_few_steps_and_today_is_in_the_last():
    year = over_time([1] * 365)
    assert year.count("h") == 53
    assert year.startswith("M0 20V17.1h"), "the first step has one day"
    assert over_time([0] * 89 + [5]).endswith("V20.0h2.22V0.0h2.22V20Z")


def test_a_bar_for_each_day():
    rows = [{"group": "2030-01-02", "prompt_tokens": 30, "generated_tokens": 50}]
    plot = by_day(rows, datetime(2030, 1, 1, tzinfo=UTC).date(), 2)
    empty, bar = plot.bars
    assert (plot.top, plot.middle) == (100, 50)
    assert (empty.prompt_height, empty.generated_height) == (0, 0)
    assert (bar.generated_y, bar.generated_height) == (100, 100)
    assert (bar.prompt_y, bar.prompt_height) == (40, 60)
    assert (empty.told, bar.told) == ("", f"{bar.day:%Y-%m-%d}: {bar.prompt} prompt, {bar.generated} generated")
    assert bar.prompt_path == f"M{bar.x} 40.0h{bar.width}v60.0h-{bar.width}z", "as high as it is said to be"
    assert bar.x + bar.width <= 1000


@pytest.mark.parametrize(
    ("number", "round_one"), [(0, 10), (10, 10), (11, 20), (21, 50), (99, 100), (101, 200), (2**53, 10**16)]
)
def test_the_top_is_round(number, round_one):
    assert rounded_up(number) == round_one
