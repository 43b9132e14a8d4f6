"""API keys and log-ins at the data plane: what changes counts from the next request on, on living connections, too."""

import pytest
import requests
from django.utils import timezone

from accounts import keys, sessions
from accounts.models import KeyLimit
from inference.models import UsageRecord

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def connection():
    """One connection that is kept alive, so that requests go the short way once the key is known."""
    with requests.Session() as session:
        yield session


@pytest.fixture
def ask(portal, engine, connection):
    """ask(clear, …): the answer to a chat with that key or token."""

    def post(clear, body=CHAT, path="/v1/chat/completions", header="Authorization"):
        value = f"Bearer {clear}" if header == "Authorization" else clear
        return connection.post(portal.url + path, json=body, headers={header: value}, timeout=10)

    return post


def code(answer) -> str:
    return answer.json()["error"]["code"]


def test_a_key_calls_an_engine_and_its_record_names_it(ask, alice, eventually):
    key, clear = keys.make(alice, {"name": "ci"})
    assert [ask(clear).status_code for _ in range(3)] == [200] * 3
    assert ask(clear, header="x-api-key").status_code == 200
    eventually(lambda: UsageRecord.objects.filter(api_key=key, user=alice).count() == 4)
    eventually(lambda: KeyLimit.objects.get(key=key).gen_token_number == 12)
    key.refresh_from_db()
    assert key.last_used_at is not None


def test_a_revoked_key_is_refused_from_the_next_request_on(ask, alice):
    key, clear = keys.make(alice, {"name": "ci"})
    assert [ask(clear).status_code for _ in range(3)] == [200] * 3
    keys.revoke(key)
    refused = ask(clear)
    assert (refused.status_code, code(refused)) == (401, "invalid_api_key")
    assert refused.headers["www-authenticate"] == "Bearer"


def test_a_key_whose_rights_change_goes_on_under_the_new_ones(ask, alice):
    key, clear = keys.make(alice, {"name": "ci"})
    assert [ask(clear).status_code for _ in range(2)] == [200] * 2
    keys.change(key, {"allowed_models": ["tiny", "other"]})
    assert ask(clear).status_code == 200
    keys.change(key, {"allowed_models": ["other"]})
    refused = ask(clear)
    assert (refused.status_code, code(refused)) == (404, "model_not_found")
    keys.change(key, {"scopes": ["read-only"]})
    refused = ask(clear)
    assert (refused.status_code, code(refused)) == (403, "insufficient_permissions")


def test_a_keys_models_are_all_that_it_lists(portal, ask, alice):
    _, clear = keys.make(alice, {"name": "ci", "allowed_models": ["other"]})
    listed = requests.get(f"{portal.url}/v1/models", headers={"Authorization": f"Bearer {clear}"}, timeout=10)
    assert listed.json()["data"] == []


def test_an_expired_and_an_unknown_key_are_refused(ask, alice):
    key, clear = keys.make(alice, {"name": "ci"})
    type(key).objects.filter(pk=key.pk).update(expires_at=timezone.now())
    for wrong in (clear, "sk-" + "x" * 48, "sk-"):
        assert (ask(wrong).status_code, code(ask(wrong))) == (401, "invalid_api_key")


def test_a_keys_own_limit_ends_it_and_not_its_user(portal, ask, alice, limit):
    _, clear = keys.make(alice, {"name": "ci", "gen_token_limit": 3})
    assert ask(clear).status_code == 200  # 3 generated tokens
    refused = ask(clear)
    assert (refused.status_code, code(refused)) == (429, "insufficient_quota")
    assert "API key" in refused.json()["error"]["message"]
    assert portal.chat(alice).status_code == 200


def test_requests_per_minute_of_a_key_are_told_and_kept(ask, alice):
    _, clear = keys.make(alice, {"name": "ci", "requests_per_minute": 2})
    answers = [ask(clear) for _ in range(5)]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    assert 429 in [answer.status_code for answer in answers]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert code(refused) == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_what_is_left_is_told_with_each_answer(ask, alice, limit):
    answer = ask(sessions.issue_tokens(alice)[0])
    told = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}
    assert set(told) == {
        f"x-ratelimit-{what}-{noun}" for what in ("limit", "remaining", "reset") for noun in ("requests", "tokens")
    }


def test_after_a_logout_the_access_token_is_refused_and_another_log_in_lives_on(portal, ask, alice):
    (first, _), (second, _) = sessions.issue_tokens(alice), sessions.issue_tokens(alice)
    assert [ask(token).status_code for token in (first, first, second, second)] == [200] * 4
    done = requests.post(f"{portal.url}/token/logout", headers={"Authorization": f"Bearer {first}"}, timeout=10)
    assert done.status_code == 200
    assert (ask(first).status_code, ask(second).status_code) == (401, 200)


def test_a_disabled_users_key_is_refused_from_the_next_request_on(ask, alice):
    _, clear = keys.make(alice, {"name": "ci"})
    assert [ask(clear).status_code for _ in range(2)] == [200] * 2
    alice.is_active = False
    alice.save()
    assert ask(clear).status_code == 401


def test_llm_request_takes_a_key_and_its_limits(portal, ask, engine, alice, eventually):
    key, clear = keys.make(alice, {"name": "ci"})
    answer = ask(clear, {"model": "tiny", "prompt": "hi"}, "/llm_request")
    assert answer.status_code == 200, answer.text
    eventually(lambda: UsageRecord.objects.filter(api_key=key).count() == 1)
    _, other = keys.make(alice, {"name": "ro", "scopes": ["read-only"]})
    assert ask(other, {"model": "tiny", "prompt": "hi"}, "/llm_request").status_code == 403
