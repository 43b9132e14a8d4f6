"""Refresh tokens that count once, logout, and what ends a session."""

import asyncio
import threading
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone
from rest_framework.test import APIClient
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from accounts import sessions, tasks
from accounts.auth import issue_tokens, user_of, verify
from accounts.errors import NotAuthenticated
from accounts.middleware import arrival
from accounts.models import LoginSession, User
from tests.threads import at_once
from vllm_portal.redis_client import client

ME = "/api/v1/users/me"


@pytest.fixture
def api():
    return APIClient()


def refresh(api, token):
    return api.post("/token/refresh", {"refresh_token": token}, format="json")


def counts(access) -> bool:
    answer = APIClient().get(ME, HTTP_AUTHORIZATION=f"Bearer {access}")
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


def logout(access, path="/token/logout"):
    return APIClient().post(path, HTTP_AUTHORIZATION=f"Bearer {access}")


# Rotation


@pytest.mark.parametrize("path", ["/token/refresh", "/token/refresh/"])
def test_a_refresh_gives_a_new_pair(api, alice, path):
    first, token = issue_tokens(alice)
    answer = api.post(path, {"refresh_token": token}, format="json")
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"username", "access_token", "token_type", "refresh_token"}
    assert (body["username"], body["token_type"]) == ("alice", "bearer")
    assert body["refresh_token"] != token
    assert counts(body["access_token"])
    assert counts(first), "access tokens live for hours, also those from before a refresh"
    assert refresh(api, body["refresh_token"]).status_code == 200


def test_the_form_is_taken(api, alice):
    body = f"refresh_token={issue_tokens(alice)[1]}"
    assert api.post("/token/refresh", body, content_type="application/x-www-form-urlencoded").status_code == 200


def test_a_used_token_that_comes_again_ends_the_session(api, alice):
    first, used = issue_tokens(alice)
    other, other_refresh = issue_tokens(alice)
    new = refresh(api, used).json()
    again = refresh(api, used)
    assert (again.status_code, again["WWW-Authenticate"]) == (401, "Bearer")
    assert "used before" in again.json()["detail"]
    assert not counts(first)
    assert not counts(new["access_token"])
    assert refresh(api, new["refresh_token"]).status_code == 401
    assert counts(other)
    assert refresh(api, other_refresh).status_code == 200


def test_a_token_from_long_ago_ends_the_session_too(api, alice):
    _, used = issue_tokens(alice)
    newest = refresh(api, refresh(api, used).json()["refresh_token"]).json()
    assert refresh(api, used).status_code == 401
    assert not counts(newest["access_token"])


def test_who_asked_before_the_other_was_done_ends_nothing(alice):
    _, token = issue_tokens(alice)
    arrived = timezone.now()
    _, access, newest = sessions.renew(token, arrived)
    with pytest.raises(NotAuthenticated, match="just used"):
        sessions.renew(token, arrived)
    assert counts(access)
    assert sessions.renew(newest, timezone.now())


def test_a_request_arrives_before_it_waits_for_a_thread(rf):
    """Of two at once the second waits until the first is done; it has arrived all the same."""
    in_line, all_there = [], threading.Event()

    def in_thread(request):
        assert all_there.wait(10)
        return request.arrived, timezone.now()

    async def on_loop(request):
        in_line.append(request)
        if len(in_line) == 2:
            all_there.set()
        return await sync_to_async(in_thread)(request)

    async def both():
        handler = arrival(on_loop)
        return await asyncio.gather(handler(rf.get("/")), handler(rf.get("/")))

    (_, first_begun), (second_arrived, second_begun) = asyncio.run(both())
    assert second_arrived < first_begun <= second_begun
    before = timezone.now()
    assert before <= arrival(lambda request: request.arrived)(rf.get("/")) <= timezone.now()


@pytest.mark.django_db(transaction=True)
def test_of_two_at_once_one_gets_the_pair_and_keeps_it(people):
    _, token = issue_tokens(people["alice"])
    ready = threading.Barrier(4)

    def ask():
        arrived = timezone.now()
        ready.wait(10)  # all have arrived before any begins
        return sessions.renew(token, arrived)

    answers = at_once(*[ask] * 4, refusals=NotAuthenticated)
    pairs = [answer for answer in answers if isinstance(answer, tuple)]
    assert (len(answers), len(pairs)) == (4, 1)
    _, access, newest = pairs[0]
    assert counts(access)
    assert sessions.renew(newest, timezone.now())


def test_a_session_lives_as_long_as_its_last_tokens(api, alice):
    _, token = issue_tokens(alice)
    LoginSession.objects.update(expires_at=timezone.now() + timedelta(minutes=1))
    body = refresh(api, token).json()
    assert LoginSession.objects.get().expires_at.timestamp() == RefreshToken(body["refresh_token"])["exp"]


@pytest.mark.parametrize("claim", ["sid", "ver", "user_id", "jti"])
def test_a_token_without_one_of_its_claims_does_not_count(api, alice, claim):
    access, token = issue_tokens(alice)
    access, token = AccessToken(access), RefreshToken(token)
    for each in (access, token):
        del each.payload[claim]
    assert not counts(access)
    assert refresh(api, str(token)).status_code == 401


@pytest.mark.parametrize("sid", [7, None, "", "x", "1b4e28ba2fa14d3ba3f5ef19b5a7633b", ["a"]])
def test_a_token_of_no_session_does_not_count(api, alice, sid):
    token = AccessToken(issue_tokens(alice)[0])
    token["sid"] = sid
    assert not counts(token)


def test_a_token_of_somebody_elses_session_does_not_count(alice, bob):
    token = AccessToken(issue_tokens(alice)[0])
    token["sid"] = verify(issue_tokens(bob)[0]).session
    assert not counts(token)


# Logout


@pytest.mark.parametrize("path", ["/token/logout", "/token/logout/"])
def test_logout_ends_this_session_and_no_other(api, alice, path):
    access, token = issue_tokens(alice)
    renewed = refresh(api, token).json()
    other, other_refresh = issue_tokens(alice)
    answer = logout(renewed["access_token"], path)
    assert (answer.status_code, list(answer.json())) == (200, ["message"])
    for ended in (access, renewed["access_token"]):
        assert not counts(ended)
    assert refresh(api, renewed["refresh_token"]).status_code == 401
    assert counts(other)
    assert refresh(api, other_refresh).status_code == 200
    assert logout(access).status_code == 401


def test_who_has_no_access_token_does_not_log_out(api, alice, key_of):
    answer = api.post("/token/logout")
    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
    api.force_login(alice)
    assert api.post("/token/logout").status_code == 401
    refused = key_of(alice, scopes=["management"]).post("/token/logout")
    assert refused.status_code == 400
    assert "revoke" in refused.json()["detail"]


def test_the_data_plane_is_told(alice, committed, heard):
    session = verify(issue_tokens(alice)[0]).session
    with committed():
        sessions.end(session)
        assert not client().exists(f"ended:{session}")
    assert 0 < client().ttl(f"ended:{session}") <= sessions.MARKED_FOR.total_seconds()
    with committed():
        sessions.end(session)
    assert heard() == ["users"]


def test_what_the_data_plane_was_not_told_it_is_told_later(alice, bob, committed):
    ended, old, living = [verify(issue_tokens(user)[0]).session for user in (alice, bob, alice)]
    with committed():
        sessions.end(ended)
        sessions.end(old)
    LoginSession.objects.filter(pk=old).update(ended_at=timezone.now() - sessions.MARKED_FOR)
    client().flushall()
    tasks.correct_counters()
    assert [bool(client().exists(f"ended:{session}")) for session in (ended, old, living)] == [True, False, False]


def test_the_session_of_a_token_is_looked_up_in_one_query(alice, django_assert_num_queries):
    access, _ = issue_tokens(alice)
    with django_assert_num_queries(1):
        assert user_of(access).username == "alice"


@pytest.mark.django_db(transaction=True)
def test_logout_and_refresh_at_once_leave_nothing_that_counts(people):
    access, token = issue_tokens(people["alice"])
    got = at_once(
        lambda: sessions.renew(token, timezone.now()),
        lambda: sessions.end(verify(access).session),
        refusals=NotAuthenticated,
    )
    assert not counts(access)
    for pair in filter(lambda result: isinstance(result, tuple), got):
        assert not counts(pair[1])


# What else ends it


def _disable(user):
    user.is_active = False
    user.save()


def _new_password(user):
    user.set_password("another horse")
    user.save(update_fields=["password"])


@pytest.mark.parametrize("change", [_disable, _new_password, User.delete])
def test_a_change_of_rights_ends_every_session(api, alice, change):
    pairs = [issue_tokens(alice) for _ in range(2)]
    change(User.objects.get(pk=alice.pk))
    for access, token in pairs:
        assert not counts(access)
        assert refresh(api, token).status_code == 401


def test_expired_sessions_are_deleted(alice):
    issue_tokens(alice)
    living = verify(issue_tokens(alice)[0]).session
    LoginSession.objects.exclude(pk=living).update(expires_at=timezone.now() - timedelta(seconds=1))
    tasks.delete_expired_sessions()
    assert [session.pk.hex for session in LoginSession.objects.all()] == [living]


def test_beat_asks_for_it(settings):
    asked = {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    assert {tasks.delete_expired_sessions.name, tasks.correct_counters.name} <= asked
