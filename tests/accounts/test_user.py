"""Saving a user: flags, tokens, and who is told."""

import pytest
from django.db import IntegrityError, transaction

from accounts.auth import issue_tokens, user_of
from accounts.models import Role, TokenLimit, User
from vllm_portal.redis_client import client


def again(user) -> User:
    return User.objects.get(pk=user.pk)


def test_the_role_gives_djangos_flags(alice):
    alice.role = Role.ADMIN
    alice.save(update_fields=["role"])
    assert (again(alice).is_staff, again(alice).is_superuser) == (True, True)
    alice.role = Role.USER
    alice.save()
    assert (again(alice).is_staff, again(alice).is_superuser) == (False, False)


def test_a_new_user_has_a_limit_row(alice):
    assert TokenLimit.objects.get(user=alice).gen_token_limit == 1_000


@pytest.mark.parametrize(("name", "value"), [("is_active", False), ("role", Role.ADMIN), ("password", "x")])
@pytest.mark.parametrize("whole", [True, False])
def test_a_change_of_rights_is_told_after_the_commit(alice, live, committed, heard, name, value, whole):
    before = live(alice)
    alice = again(alice)
    with committed():
        alice.set_password(value) if name == "password" else setattr(alice, name, value)
        alice.save(**{} if whole else {"update_fields": [name]})
        assert live(alice) == before
        assert heard() == []
    assert live(alice, load=False) == {**before, "ver": before["ver"] + 1, "on": int(name != "is_active")}
    assert heard() == ["users"]
    assert alice.token_version == again(alice).token_version == before["ver"] + 1


def test_what_follows_a_refresh_is_seen_too(alice, live, committed):
    User.objects.filter(pk=alice.pk).update(is_active=False)
    alice.refresh_from_db()
    assert live(alice)["on"] == 0
    with committed():
        alice.is_active = True
        alice.save()
    assert live(alice, load=False)["on"] == 1


@pytest.mark.parametrize("whole", [True, False])
def test_other_changes_keep_the_tokens_and_say_nothing(alice, committed, heard, whole):
    token, _ = issue_tokens(alice)
    alice = again(alice)
    with committed():
        alice.first_name = "Alice"
        alice.save(**{} if whole else {"update_fields": ["first_name"]})
    assert user_of(token).first_name == "Alice"
    assert heard() == []


def test_a_new_name_is_told_and_keeps_the_tokens(alice, committed, heard):
    token, _ = issue_tokens(alice)
    with committed():
        alice.username = "alicia"
        alice.save()
    assert user_of(token).username == "alicia"
    assert heard() == ["users"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_weight_is_told_and_keeps_the_tokens(alice, committed, heard, whole):
    token, _ = issue_tokens(alice)
    alice = again(alice)
    with committed():
        alice.weight = 3
        alice.save(**{} if whole else {"update_fields": ["weight"]})
    assert user_of(token).weight == 3
    assert heard() == ["users"]


@pytest.mark.parametrize("weight", [0, -1, 0.09, 100.1, float("nan"), float("inf")])
def test_the_database_takes_no_weight_that_cannot_be_divided_by(alice, weight):
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=alice.pk).update(weight=weight)
    assert again(alice).weight == 1


def test_a_login_that_renews_the_hash_keeps_the_tokens(alice, settings):
    token, _ = issue_tokens(alice)
    old = alice.password
    hashers = ["django.contrib.auth.hashers.PBKDF2PasswordHasher", "django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.PASSWORD_HASHERS = hashers
    assert alice.check_password("correct horse")
    assert again(alice).password != old
    assert user_of(token) == alice


@pytest.mark.parametrize("fields", [None, ["last_login"], ["first_name"]])
def test_an_older_copy_brings_no_revoked_token_back(alice, fields):
    token, _ = issue_tokens(alice)
    older = again(alice)
    alice.set_password("another horse")
    alice.save()
    older.first_name = "Alice"
    older.save(**{"update_fields": fields} if fields else {})
    assert again(alice).token_version == older.token_version + 1
    with pytest.raises(Exception, match="no longer counts"):
        user_of(token)


def test_two_changes_from_the_same_copy_count_twice(alice):
    one, other = again(alice), again(alice)
    one.set_password("one")
    one.save()
    token, _ = issue_tokens(again(alice))
    other.set_password("other")
    other.save()
    with pytest.raises(Exception, match="no longer counts"):
        user_of(token)


def test_a_user_with_deferred_fields_loses_none(alice):
    some = User.objects.only("first_name").get(pk=alice.pk)
    some.first_name = "Alice"
    some.save()
    assert (again(alice).first_name, again(alice).username) == ("Alice", "alice")
    assert again(alice).check_password("correct horse")
    assert again(alice).token_version == alice.token_version


@pytest.mark.parametrize("delete", [User.delete, lambda user: again(user).delete()])
def test_a_deleted_user_has_no_live_counters(alice, live, committed, heard, delete):
    live(alice)
    key = f"counters:{alice.pk}"
    with committed():
        delete(alice)
    assert not client().exists(key)
    assert heard() == ["users"]
