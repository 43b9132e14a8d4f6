"""API keys: what is stored, which of them count, and that a change counts at once."""

import io
import logging
import re
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import redis
from django.core.management import call_command
from django.utils import timezone

from accounts import keys, quotas
from accounts.errors import KeyRevoked, MoreThanOwn, NotAuthenticated
from accounts.models import ApiKey, KeyLimit, User
from tests.live_rows import add_to_row, put_row
from tests.threads import at_once
from vllm_portal.log import SafeFormatter
from vllm_portal.redis_client import client

SOON = timedelta(days=1)


def make(user, **rights):
    return keys.make(user, {"name": "notebook", **rights})


def again(key) -> ApiKey:
    return ApiKey.objects.get(pk=key.pk)


def test_a_key_is_long_random_and_easy_to_copy(alice):
    clears = {make(alice)[1] for _ in range(20)}
    assert len(clears) == 20
    assert all(re.fullmatch(r"sk-[A-Za-z0-9]{48}", clear) for clear in clears)


def test_a_key_is_found_by_its_clear_text_in_one_query(alice, django_assert_num_queries):
    key, clear = make(alice)
    with django_assert_num_queries(1):
        found = keys.key_of(clear)
        assert (found, found.user.username) == (key, "alice")
    assert (found.prefix, found.last_four) == (clear[:7], clear[-4:])
    assert (found.scopes, found.allowed_models, found.expires_at) == (["inference"], [], None)


def test_the_clear_key_is_nowhere_in_the_database(alice, key_of):
    made = key_of(alice, scopes=["management"])
    assert made.get("/api/v1/keys").status_code == 200
    dump = io.StringIO()
    call_command("dumpdata", stdout=dump)
    assert made.key.digest in dump.getvalue()
    assert made.clear not in dump.getvalue()
    assert made.clear[8:-4] not in dump.getvalue()


def test_the_clear_key_is_in_no_line_of_the_log(alice, key_of, caplog):
    made = key_of(alice)
    with caplog.at_level(logging.DEBUG):
        made.get("/api/v1/key")
        made.post("/api/v1/keys", {"name": made.clear}, format="json")
    caplog.records.append(logging.makeLogRecord({"msg": f"who? {made.clear} and Bearer {made.clear}"}))
    lines = [SafeFormatter("%(message)s").format(record) for record in caplog.records]
    assert len(lines) >= 1
    assert not [line for line in lines if made.clear[8:] in line]


@pytest.mark.parametrize(
    "token", ["", "sk-", "sk-unknown", "sk-" + "a" * 48, "sk-ü\ud800", "sk-' OR 1=1 --", "x" * 9000]
)
def test_what_is_no_key_does_not_count(alice, token):
    make(alice)
    with pytest.raises(NotAuthenticated, match="not known"):
        keys.key_of(token)


def test_a_revoked_key_does_not_count_and_stays_so(alice):
    key, clear = make(alice)
    keys.revoke(key)
    revoked = again(key)
    keys.revoke(key)
    assert again(key).revoked_at == revoked.revoked_at
    assert again(key).version == revoked.version == 2
    with pytest.raises(NotAuthenticated, match="revoked"):
        keys.key_of(clear)
    with pytest.raises(KeyRevoked):
        keys.change(key, {"name": "other"})


def test_an_expired_key_does_not_count(alice):
    key, clear = make(alice, expires_at=timezone.now() + SOON)
    assert keys.key_of(clear) == key
    ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())
    with pytest.raises(NotAuthenticated, match="expired"):
        keys.key_of(clear)


def test_a_disabled_users_key_does_not_count(alice):
    _, clear = make(alice)
    alice.is_active = False
    alice.save()
    with pytest.raises(NotAuthenticated, match="disabled"):
        keys.key_of(clear)


def test_a_new_password_keeps_the_keys(alice):
    key, clear = make(alice)
    alice.set_password("another horse")
    alice.save()
    assert keys.key_of(clear) == key


def test_a_deleted_users_keys_are_gone(alice):
    _, clear = make(alice)
    User.objects.get(pk=alice.pk).delete()
    with pytest.raises(NotAuthenticated):
        keys.key_of(clear)


# Last used


def test_the_last_use_is_written_once_a_minute(alice, django_assert_num_queries):
    key, _ = make(alice)
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    keys.touch(key, noon)
    assert again(key).last_used_at == noon
    with django_assert_num_queries(0):
        keys.touch(ApiKey(pk=key.pk, last_used_at=noon), noon + timedelta(seconds=59))
    keys.touch(key, noon + timedelta(seconds=59))  # a copy from before the first use: the row decides
    assert again(key).last_used_at == noon
    keys.touch(again(key), noon + timedelta(seconds=60))
    assert again(key).last_used_at == noon + timedelta(seconds=60)


# What a change tells


def test_a_change_is_told_after_the_commit(alice, live, committed, heard):
    key, _ = make(alice, gen_token_limit=9)
    before = live(key)
    assert (before["pl"], before["gl"], before["ver"], before["on"]) == (quotas.MOST, 9, 1, 1)
    with committed():
        keys.change(key, {"prompt_token_limit": 5})
        assert live(key, load=False) == before
    assert live(key, load=False) == {**before, "pl": 5, "ver": 2}
    with committed():
        keys.change(key, {"prompt_token_limit": None, "name": "other"})
    assert live(key, load=False) == {**before, "ver": 3}
    with committed():
        keys.revoke(key)
    assert live(key, load=False) == {**before, "ver": 4, "on": 0}
    assert heard() == ["users"] * 3


def test_a_first_limit_is_loaded_with_what_has_been_spent_without_one(alice, live, committed):
    key, _ = make(alice)
    live(key)
    KeyLimit.objects.filter(key=key).update(gen_token_number=3)  # without a limit only the database counts
    with committed():
        keys.change(key, {"gen_token_limit": 5})
    assert live(key, load=False) == {}
    assert (live(key)["gl"], live(key)["gu"]) == (5, 3)


def test_what_is_not_loaded_stays_so(alice, committed):
    key, _ = make(alice)
    with committed():
        keys.change(key, {"prompt_token_limit": 5})
        keys.revoke(key)
    assert client().keys("counters:*") == []


def test_a_limit_by_time_is_loaded_with_what_its_time_has_cost(alice, live, committed):
    key, _ = make(alice)
    live(key)
    with committed():
        keys.change(key, {"tokens_per_day": 100})
    assert not client().exists(quotas.key(quotas.of_key(key.pk)))
    assert live(key)["td"] == 100


def test_what_redis_was_not_told_is_corrected(alice, live):
    limited, revoked, paced, gone, same = [make(alice, prompt_token_limit=9)[0] for _ in range(5)]
    for key in (limited, revoked, paced, gone, same):
        live(key)
    live(alice)
    before = live(same), live(alice)
    KeyLimit.objects.filter(key=limited).update(gen_token_limit=7)
    ApiKey.objects.filter(pk=revoked.pk).update(revoked_at=timezone.now())
    KeyLimit.objects.filter(key=paced).update(tokens_per_day=3)
    ApiKey.objects.filter(pk=gone.pk).delete()
    put_row("what-is-this", pl=1)

    assert quotas.correct_all() == 5
    assert live(limited, load=False)["gl"] == 7
    assert live(revoked, load=False)["on"] == 0
    assert not client().exists(f"counters:k{paced.pk}", f"counters:k{gone.pk}", "counters:what-is-this")
    assert live(paced)["td"] == 3
    assert (live(same, load=False), live(alice, load=False)) == before
    assert quotas.correct_all() == 0


def test_live_key_numbers_are_the_live_ones(alice, live, monkeypatch):
    key, _ = make(alice, gen_token_limit=9)
    KeyLimit.objects.filter(key=key).update(prompt_token_number=3)
    stored = quotas.live_key_numbers(key)
    assert (stored["prompt_token_number"], stored["prompt_token_limit"], stored["gen_token_limit"]) == (
        3,
        quotas.MOST,
        9,
    )
    live(key)
    add_to_row(f"k{key.pk}", pu=17)
    assert quotas.live_key_numbers(key)["prompt_token_number"] == 20

    def away(*_, **__):
        raise redis.ConnectionError("away")

    monkeypatch.setattr(client(), "execute_command", away)
    assert quotas.live_key_numbers(key)["prompt_token_number"] == 3


# What one key may give another


def parent(user, **rights) -> ApiKey:
    return keys.make(user, {"name": "parent", "scopes": ["management"], **rights})[0]


LATER = datetime(2040, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ({}, {"scopes": ["inference"]}),
        ({}, {"scopes": ["management", "inference"]}),
        ({"scopes": ["inference", "read-only"]}, {"scopes": ["management"]}),
        ({"allowed_models": ["a", "b"]}, {"allowed_models": ["a", "c"]}),
        ({"allowed_models": ["a", "b"]}, {"allowed_models": []}),
        ({"expires_at": LATER}, {"expires_at": None}),
        ({"expires_at": LATER}, {"expires_at": LATER + SOON}),
        ({"prompt_token_limit": 5}, {"prompt_token_limit": 6}),
        ({"prompt_token_limit": 5}, {"prompt_token_limit": None}),
        ({"gen_token_limit": 0}, {"gen_token_limit": 1}),
        ({"requests_per_minute": 5}, {"requests_per_minute": None}),
    ],
)
def test_a_key_gives_no_more_than_it_has(alice, own, wanted):
    by = parent(alice, **own)
    child, _ = make(alice)
    right = next(iter(wanted)).removeprefix("allowed_")
    with pytest.raises(MoreThanOwn, match=right):
        keys.make(alice, {"name": "child", **wanted}, by=by)
    for key in (child, by):
        with pytest.raises(MoreThanOwn, match=right):
            keys.change(key, wanted, by=by)
    assert ApiKey.objects.count() == 2


def test_what_is_not_said_is_as_with_the_key_that_makes(alice):
    own = {"allowed_models": ["a"], "expires_at": LATER, "prompt_token_limit": 5, "tokens_per_day": 9}
    by = parent(alice, **own)
    child = again(keys.make(alice, {"name": "child"}, by=by)[0])
    assert (child.scopes, child.allowed_models, child.expires_at) == (["management"], ["a"], LATER)
    assert (child.limit.prompt_token_limit, child.limit.gen_token_limit, child.limit.tokens_per_day) == (5, None, 9)


def test_less_is_fine(alice):
    by = parent(alice, allowed_models=["a", "b"], expires_at=LATER, prompt_token_limit=5)
    less = {"scopes": ["read-only"], "allowed_models": ["b"], "expires_at": LATER - SOON, "prompt_token_limit": 4}
    child, _ = keys.make(alice, {"name": "child", **less}, by=by)
    assert again(child).limit.prompt_token_limit == 4
    assert keys.change(child, {"prompt_token_limit": 0}, by=by).limit.prompt_token_limit == 0


def test_a_right_that_is_none_is_a_mistake_of_the_programmer(people):
    with pytest.raises(TypeError, match="models"):
        make(people["alice"], models=["tiny"])


# Two at once


@pytest.mark.django_db(transaction=True)
def test_a_key_that_is_revoked_while_it_is_changed_and_used_ends_revoked(people):
    key, clear = make(people["alice"])

    def work(what):
        try:
            for _ in range(15):
                what()
        except (KeyRevoked, NotAuthenticated):
            pass

    works = [
        lambda: keys.change(key, {"name": "x", "gen_token_limit": 5}),
        lambda: keys.touch(keys.key_of(clear), timezone.now()),
        lambda: keys.revoke(key),
    ]
    at_once(*[partial(work, each) for each in works])
    with pytest.raises(NotAuthenticated, match="revoked"):
        keys.key_of(clear)
