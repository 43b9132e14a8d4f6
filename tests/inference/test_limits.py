"""Limits by time and number, of users and of keys, and the line of those who wait; against a real Redis, no engine."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from accounts.models import TokenLimit
from inference import usage
from inference.errors import LimitReached, TryLater
from inference.limits import RateLimited, Revoked, rate_lines, reset_s
from inference.models import UsageRecord
from inference.routing import Caller
from inference.upstream import headers_of
from tests.inference.test_ledger import held, ledger, quota, reserve
from tests.live_rows import change_row
from vllm_portal.redis_client import client

KEY = Caller(1, "alice", False, 1, 0, key_id=7, key_version=1)


def settle(admission, reservation, prompt=1, generated=1):
    admission.settle(reservation, prompt_tokens=prompt, generated_tokens=generated, outcome="completed", exact=True)


def settled(one) -> bool:
    return not isinstance(one, Exception)


def test_requests_beyond_the_minutes_number_are_refused_with_the_time_to_wait():
    quota(rm=3)

    async def scenario(admission):
        return await asyncio.gather(
            *(reserve(admission, prompt=1, generated=1) for _ in range(5)), return_exceptions=True
        )

    outcomes = ledger(scenario)
    if sum(map(settled, outcomes)) != 3:  # the minute changed in between
        assert sum(map(settled, outcomes)) > 3
        return
    refusal = next(one for one in outcomes if not settled(one))
    assert isinstance(refusal, RateLimited)
    headers = dict(refusal.headers())
    assert refusal.code == "rate_limit_exceeded"
    assert 1 <= int(headers[b"retry-after"]) <= 60
    assert (headers[b"x-ratelimit-limit-requests"], headers[b"x-ratelimit-remaining-requests"]) == (b"3", b"0")


@pytest.mark.parametrize(("field", "window"), [("tm", b"m"), ("td", b"d"), ("tM", b"M")])
def test_tokens_of_a_window_are_held_and_given_back(field, window):
    quota(**{field: 30})

    async def scenario(admission):
        first = await reserve(admission, prompt=10, generated=15)
        assert first.told[4:7] == [b"30", b"5", window]
        with pytest.raises(RateLimited) as refusal:
            await reserve(admission, prompt=10, generated=15)
        assert refusal.value.retry_after_s > 0
        settle(admission, first, prompt=4, generated=1)
        second = await reserve(admission, prompt=10, generated=50)
        assert second.generated_tokens == 15  # of the 25 that are left
        settle(admission, second, prompt=10, generated=15)
        with pytest.raises(RateLimited):
            await reserve(admission, prompt=1, generated=1)

    ledger(scenario)
    (name,) = client().keys("win:1:*")
    assert int(client().get(name)) == 30
    assert client().pttl(name) > 60_000


def test_a_request_that_was_never_forwarded_leaves_its_window():
    quota(tm=30)

    async def scenario(admission):
        admission.withdraw(await reserve(admission, prompt=10, generated=15))
        await reserve(admission, prompt=15, generated=15)

    ledger(scenario)


def test_requests_at_once_are_counted_and_wait_for_each_other():
    quota(so=2)

    async def scenario(admission):
        first, second = [await reserve(admission, prompt=1, generated=1) for _ in range(2)]
        third = asyncio.create_task(reserve(admission, prompt=1, generated=1))
        await asyncio.sleep(0.05)
        assert not third.done()
        settle(admission, first)
        settle(admission, await third)
        settle(admission, second)

    ledger(scenario, wait_s=5)
    assert held()["n"] == 0


def test_without_waiting_requests_at_once_are_refused():
    quota(so=1)

    async def scenario(admission):
        await reserve(admission)
        with pytest.raises(RateLimited, match="1 requests at once"):
            await reserve(admission)

    ledger(scenario)


def test_a_keys_own_limits_hold_within_its_users():
    quota(gl=1000, pl=1000)
    quota("k7", gl=10, pl=1000)

    async def scenario(admission):
        reservation = await reserve(admission, generated=50, caller=KEY)
        assert reservation.generated_tokens == 10
        assert reservation.caller.key_id == 7
        settle(admission, reservation, prompt=6, generated=9)
        settle(admission, await reserve(admission, prompt=1, generated=1, caller=KEY))
        with pytest.raises(LimitReached, match="API key"):
            await reserve(admission, caller=KEY)
        await reserve(admission, generated=50)  # the user's own token is not held by the key's limit

    ledger(scenario)
    assert {name: held("k7")[name] for name in ("pu", "gu", "pr", "gr")} == {"pu": 7, "gu": 10, "pr": 0, "gr": 0}
    assert (held()["pu"], held()["gu"]) == (7, 10)


@pytest.mark.parametrize("change", [{"on": 0}, {"ver": 2}])
def test_a_key_that_was_revoked_or_changed_is_refused_and_holds_nothing(change):
    quota()
    quota("k7", **change)

    async def scenario(admission):
        with pytest.raises(Revoked):
            await reserve(admission, caller=KEY)

    ledger(scenario)
    assert held()["pr"] == 0


def test_a_session_that_ended_is_refused():
    quota()
    client().set("ended:s1", 1)

    async def scenario(admission):
        with pytest.raises(Revoked):
            await reserve(admission, caller=Caller(1, "alice", False, 1, 0, session=b"s1"))
        await reserve(admission, caller=Caller(1, "alice", False, 1, 0, session=b"s2"))

    ledger(scenario)


def test_counters_of_the_user_and_of_the_key_are_loaded_when_they_are_missing():
    loads = []

    async def load(subject):
        loads.append(subject)
        quota(subject)

    async def scenario(admission):
        await reserve(admission, caller=KEY)

    ledger(scenario, load=load)
    assert loads == ["1", "k7"]


@pytest.mark.django_db
def test_a_day_and_a_month_go_on_from_the_records_when_redis_lost_them(alice):
    now = datetime.now(UTC)
    TokenLimit.objects.filter(user=alice).update(tokens_per_day=100, tokens_per_month=1000, requests_per_minute=None)
    for request_id, tokens, started_at in (("a", 40, now), ("b", 500, now - timedelta(days=40))):
        UsageRecord.objects.create(
            request_id=request_id, user=alice, model="m", path="/v1/x", prompt_tokens=tokens, generated_tokens=2,
            exact=True, outcome="completed", started_at=started_at, duration_ms=1,
        )  # fmt: skip
    usage.load(str(alice.pk))
    day, month = sorted(client().keys(f"win:{alice.pk}:*"), key=lambda name: ":M" in name)
    assert (int(client().get(day)), int(client().get(month))) == (42, 42)
    client().set(day, 99)
    usage.load(str(alice.pk))
    assert int(client().get(day)) == 99  # what lives knows of reservations, too


def test_who_waits_is_served_in_order_as_others_settle():
    quota(gl=10)
    order = []

    async def scenario(admission):
        first = await reserve(admission, generated=10)

        async def wait(number):
            reservation = await reserve(admission, prompt=1, generated=5)
            order.append(number)
            settle(admission, reservation, generated=1)

        waiting = []
        for number in range(5):
            waiting.append(asyncio.create_task(wait(number)))
            await asyncio.sleep(0.01)
        assert order == []
        settle(admission, first, generated=0)
        await asyncio.gather(*waiting)

    ledger(scenario, wait_s=5)
    assert order == [0, 1, 2, 3, 4]


def test_a_wait_ends_with_try_later_and_a_used_up_limit_with_insufficient_quota():
    quota(gl=10)

    async def scenario(admission):
        first = await reserve(admission, generated=10)
        with pytest.raises(TryLater) as refusal:
            await reserve(admission, generated=5)
        assert refusal.value.code == "rate_limit_exceeded"
        waiting = asyncio.create_task(reserve(admission, generated=5))
        await asyncio.sleep(0.05)
        settle(admission, first, generated=10)
        with pytest.raises(LimitReached):
            await waiting

    ledger(scenario, wait_s=0.3)


def test_a_line_is_bounded_and_who_leaves_it_makes_room():
    quota(gl=10)

    async def scenario(admission):
        first = await reserve(admission, generated=10)
        waiting = [asyncio.create_task(reserve(admission, prompt=1, generated=1)) for _ in range(4)]
        await asyncio.sleep(0.05)
        done = [one for one in waiting if one.done()]
        assert [type(one.exception()) for one in done] == [TryLater, TryLater]
        left = [one for one in waiting if not one.done()]
        left[0].cancel()
        await asyncio.sleep(0)
        settle(admission, first, generated=0)
        assert (await left[1]).generated_tokens == 1

    ledger(scenario, wait_s=5, most_waiting=2)


def test_a_key_whose_own_limit_is_held_keeps_only_its_own_requests_waiting():
    quota(gl=1000, pl=1000)
    quota("k7", gl=10, pl=1000)

    async def scenario(admission):
        first = await reserve(admission, generated=10, caller=KEY)
        waiting = asyncio.create_task(reserve(admission, generated=5, caller=KEY))
        await asyncio.sleep(0.05)
        await asyncio.wait_for(reserve(admission, generated=5), 2)
        assert not waiting.done()
        settle(admission, first, generated=0)
        await waiting

    ledger(scenario, wait_s=5)


def test_what_another_process_settles_is_noticed():
    quota(gl=10)

    async def scenario(admission):
        await reserve(admission, generated=10)
        waiting = asyncio.create_task(reserve(admission, generated=5))
        await asyncio.sleep(0.05)
        change_row(1, gr=0)
        assert (await asyncio.wait_for(waiting, 2)).generated_tokens == 5

    ledger(scenario, wait_s=5)


@pytest.mark.parametrize(
    ("window", "now_s", "left_s"),
    [
        (b"m", 1_900_000_000, 20),
        (b"d", 1_900_000_000, 22_400),
        (b"M", 1_900_000_000, 1_231_999 + 1),
        (b"M", 1_704_067_199, 1),  # the last second of a year
        (b"", 1_900_000_000, 1),
    ],
)
def test_when_a_window_is_full_again(window, now_s, left_s):
    assert reset_s(window, now_s) == left_s


def test_headers_name_requests_only_where_they_are_limited():
    assert dict(headers_of(rate_lines((b"ok", b"64", b"-1", b"-1", b"100", b"40", b"", b""), 0))) == {
        b"x-ratelimit-limit-tokens": b"100",
        b"x-ratelimit-remaining-tokens": b"40",
        b"x-ratelimit-reset-tokens": b"0s",
    }
    named = dict(headers_of(rate_lines((b"ok", b"64", b"5", b"4", b"100", b"40", b"m", b""), 30)))
    assert named[b"x-ratelimit-remaining-requests"] == b"4"
    assert named[b"x-ratelimit-reset-requests"] == named[b"x-ratelimit-reset-tokens"] == b"30s"


def test_a_stream_that_was_extended_very_often_is_settled_all_the_same():
    """What it counts in has grown beyond what a settlement has room for; the ledger knows it."""
    of_long_id = Caller(1, "alice", False, 1, 0, key_id=10**15, key_version=1)
    for subject in (1, f"k{10**15}"):
        quota(subject, td=10_000_000, tM=10_000_000, gl=10_000_000)

    async def scenario(admission):
        stream = await reserve(admission, caller=of_long_id, prompt=1, generated=1)
        for _ in range(10):
            for _ in range(70):
                admission.extend(stream, 1, lambda granted: None)
            await admission.link.ask(b"alive")
        assert len(stream.holds) > 2**16
        settle(admission, stream, prompt=1, generated=500)

    ledger(scenario)
    assert (held()["gr"], held()["gu"]) == (0, 500)
    assert sorted(int(value) for value in client().mget(client().keys("win:*"))) == [501] * 4
