"""Limits and numbers, in the database and in the live counters."""

import threading

import pytest
import redis
from django.db import transaction
from django.db.models import F

from accounts import quotas
from accounts.models import TokenLimit, User
from inference import usage
from tests.live_rows import add_to_row
from tests.threads import at_once, lent
from vllm_portal.config import get_config
from vllm_portal.redis_client import client


@pytest.fixture
def redis_away(monkeypatch, tmp_path):
    """Nobody listens where the portal looks for Redis."""
    monkeypatch.setattr(get_config().__class__, "redis", property(lambda config: f"unix://{tmp_path}/nobody.sock"))
    client.cache_clear()
    yield
    monkeypatch.undo()
    client.cache_clear()


def row(user) -> tuple[int, int, int, int]:
    limit = TokenLimit.objects.get(user=user)
    return limit.prompt_token_number, limit.prompt_token_limit, limit.gen_token_number, limit.gen_token_limit


def test_key_is_the_one_that_the_ledger_loads(alice):
    usage.load(str(alice.pk))
    assert client().keys("counters:*") == [quotas.key(alice.pk)]


def test_limits_reach_the_live_counters_after_the_commit(alice, live, committed):
    before = live(alice)
    with committed():
        quotas.set_limits(alice, prompt=5, generated=6)
        assert live(alice) == before
    assert live(alice, load=False) == {**before, "pl": 5, "gl": 6}
    assert row(alice) == (0, 5, 0, 6)


def test_none_leaves_a_limit(alice, live, committed):
    live(alice)
    with committed():
        quotas.set_limits(alice, generated=6)
    assert (live(alice)["pl"], live(alice)["gl"]) == (10_000, 6)


def test_what_is_not_loaded_stays_so(alice, live, committed):
    with committed():
        quotas.set_limits(alice, prompt=5)
        quotas.add_numbers(alice, prompt=5)
        quotas.double_limits(alice)
    quotas.push_standing(alice.pk)
    assert client().keys("*") == []
    assert live(alice)["pl"] == 10


def test_limits_never_double_beyond_what_can_be_counted(alice):
    quotas.set_limits(alice, prompt=quotas.MOST - 1, generated=21)
    quotas.double_limits(alice)
    assert row(alice) == (0, quotas.MOST, 0, 42)


def test_numbers_set_and_added(alice, live, committed):
    live(alice)
    with committed():
        quotas.set_numbers(alice, prompt=50)
        quotas.add_numbers(alice, prompt=-20, generated=7)
    assert row(alice) == (30, 10_000, 7, 1_000)
    assert (live(alice)["pu"], live(alice)["gu"]) == (30, 7)


def test_no_more_is_given_back_than_was_spent(alice):
    quotas.set_numbers(alice, prompt=5)
    quotas.add_numbers(alice, prompt=-20, generated=-1)
    assert row(alice) == (0, 10_000, 0, 1_000)


def test_reservations_and_unwritten_records_survive_a_change_of_numbers(alice, live, committed):
    """What the database does not know yet is in the counters when they are loaded again."""
    live(alice)
    opening = ["p1", 60_000, 203001, "", usage.spelt("reopen", alice.pk, "", "r1", 30, 40, "{}")]
    assert client().register_script(usage.SCRIPT.decode())(args=opening) == "1"
    with committed():
        quotas.set_numbers(alice, prompt=100, generated=100)
    assert quotas.live_numbers(alice) == {
        "prompt_token_number": 100, "prompt_token_limit": 10_000, "prompt_tokens_reserved": 0,
        "gen_token_number": 100, "gen_token_limit": 1_000, "gen_tokens_reserved": 0,
    }  # fmt: skip
    live(alice)
    assert quotas.live_numbers(alice) == {
        "prompt_token_number": 100, "prompt_token_limit": 10_000, "prompt_tokens_reserved": 30,
        "gen_token_number": 100, "gen_token_limit": 1_000, "gen_tokens_reserved": 40,
    }  # fmt: skip


def test_live_numbers_are_the_live_ones(alice, live):
    live(alice)
    add_to_row(alice.pk, pu=17)
    assert quotas.live_numbers(alice)["prompt_token_number"] == 17


def test_without_redis_changes_count_and_numbers_are_the_databases(alice, committed, redis_away):
    with committed():
        quotas.set_limits(alice, prompt=5)
        quotas.set_numbers(alice, generated=3)
        alice.is_active = False
        alice.save()
    numbers = quotas.live_numbers(alice)
    assert (numbers["prompt_token_limit"], numbers["gen_token_number"]) == (5, 3)
    with pytest.raises(redis.RedisError):
        quotas.correct_all()


def test_what_redis_was_not_told_is_corrected(alice, bob, root, live):
    for user in (alice, bob, root):
        live(user)
    bob_before = live(bob)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    TokenLimit.objects.filter(user=alice).update(prompt_token_limit=5)
    User.objects.filter(pk=root.pk).delete()
    add_to_row(alice.pk, pu=17)

    assert quotas.correct_all() == 2
    corrected = live(alice, load=False)
    assert (corrected["on"], corrected["pl"], corrected["pu"]) == (0, 5, 17)
    assert live(bob, load=False) == bob_before
    assert not client().exists(quotas.key(root.pk))
    assert quotas.correct_all() == 0


@pytest.mark.django_db(transaction=True)
def test_a_load_that_read_the_old_row_does_not_win(people, live):
    """The push waits for the load, which holds the ledger's lock, and comes after it."""
    alice = people["alice"]
    waiting = threading.Event()

    @lent
    def change():
        with transaction.atomic():
            TokenLimit.objects.filter(user=alice).update(prompt_token_limit=5)
        waiting.set()
        quotas.push_limits(alice.pk)

    thread = threading.Thread(target=change)
    with quotas.ledger_lock():
        thread.start()
        assert waiting.wait(10)
        thread.join(0.1)
        assert thread.is_alive(), "the push did not wait for the load"
        columns = [10_000, 1_000, 0, 0, alice.token_version, 1, 6000, -1, -1, -1, -1, 0, 0]
        stale = ["", 0, 203001, "", usage.spelt("load", alice.pk, *columns)]
        client().register_script(usage.SCRIPT.decode())(args=stale)
    thread.join(10)
    assert live(alice, load=False)["pl"] == 5


def somebody_else_takes_the_lock():
    """As when its holder was too slow: it ran out, and another one has it."""
    client().set("lock:ledger", "another", px=10_000)


def test_who_was_too_slow_loads_nothing(alice, monkeypatch):
    read = usage._user_columns
    monkeypatch.setattr(usage, "_user_columns", lambda pk: (somebody_else_takes_the_lock(), read(pk))[1])
    with pytest.raises(redis.RedisError, match="LOST"):
        usage.load(str(alice.pk))
    assert not client().exists(quotas.key(alice.pk))


def test_who_was_too_slow_tells_nothing(alice, monkeypatch, live):
    live(alice)
    read = quotas._rows
    monkeypatch.setattr(quotas, "_rows", lambda subjects: (somebody_else_takes_the_lock(), read(subjects))[1])
    TokenLimit.objects.update(prompt_token_limit=5)
    quotas.push_limits(alice.pk)
    assert live(alice, load=False)["pl"] != 5


def test_a_holder_that_was_killed_is_waited_for_ten_seconds_at_most():
    quotas.ledger_lock().acquire()
    assert 0 < client().pttl("lock:ledger") <= 10_000


@pytest.mark.django_db(transaction=True)
def test_concurrent_changes_and_metering_add_up(people):
    alice = people["alice"]
    rounds = 40

    def meter():
        for _ in range(rounds):
            TokenLimit.objects.filter(user=alice).update(prompt_token_number=F("prompt_token_number") + 3)

    def correct():
        for _ in range(rounds):
            quotas.add_numbers(alice, prompt=-1)

    def edit():
        for count in range(rounds):
            user = User.objects.select_related("token_limit").get(pk=alice.pk)
            user.first_name = f"A{count}"
            user.save()

    quotas.set_numbers(alice, prompt=1000)
    at_once(meter, correct, edit)
    assert row(alice)[0] == 1000 + rounds * 2
