"""POST /token and /token/refresh: who logs in, and who does not."""

from datetime import timedelta

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher
from rest_framework.test import APIClient
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from accounts.auth import issue_tokens, user_of
from accounts.models import User

REFUSED = {"detail": "Incorrect username or password"}
PASSWORD = "correct horse"
FORM = "application/x-www-form-urlencoded"


class CountingHasher(MD5PasswordHasher):
    runs = 0

    def encode(self, password: str, salt: str) -> str:
        type(self).runs += 1
        return super().encode(password, salt)


@pytest.fixture
def api():
    return APIClient()


def log_in(api, username="alice", password=PASSWORD, path="/token"):
    return api.post(path, {"username": username, "password": password}, format="json")


@pytest.mark.parametrize("path", ["/token", "/token/"])
def test_json_gives_tokens_that_count(api, alice, path):
    answer = log_in(api, path=path)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"username", "access_token", "token_type", "refresh_token"}
    assert (body["username"], body["token_type"]) == ("alice", "bearer")
    assert user_of(body["access_token"]) == alice


@pytest.mark.parametrize("path", ["/token", "/token/"])
def test_the_form_of_existing_clients_is_taken(api, alice, path):
    form = "grant_type=password&username=alice&password=correct+horse&scope=&client_id=x&client_secret="
    answer = api.post(path, form, content_type=FORM)
    assert answer.status_code == 200
    assert user_of(answer.json()["access_token"]) == alice


def test_unknown_fields_are_ignored(api, alice):
    body = {"username": "alice", "password": "correct horse", "remember": {"me": [True]}}
    assert api.post("/token", body, format="json").status_code == 200


def test_another_credential_in_the_request_does_not_matter(api, alice):
    api.credentials(HTTP_AUTHORIZATION="Bearer expired-long-ago")
    assert log_in(api).status_code == 200


def test_a_password_is_not_trimmed(api, db):
    User.objects.create_user("carol", password=" spaced ")
    assert log_in(api, "carol", " spaced ").status_code == 200
    assert log_in(api, "carol", "spaced").status_code == 401


@pytest.mark.parametrize("case", ["wrong password", "unknown", "disabled", "no password set"])
def test_each_refusal_is_the_same_and_hashes_once(api, alice, settings, case):
    settings.PASSWORD_HASHERS = [f"{__name__}.CountingHasher"]
    if case == "disabled":
        alice.is_active = False
        alice.save()
    if case == "no password set":
        alice.set_unusable_password()
        alice.save()
    CountingHasher.runs = 0
    answer = log_in(
        api, "nobody" if case == "unknown" else "alice", "wrong" if case == "wrong password" else "correct horse"
    )
    assert (answer.status_code, answer.json()) == (401, REFUSED)
    assert answer["WWW-Authenticate"] == "Bearer"
    assert CountingHasher.runs == 1


@pytest.mark.parametrize("field", ["username", "password"])
@pytest.mark.parametrize("value", [None, 7, True, ["alice"], {"a": 1}, "nul\x00", "", "x" * 5000])
def test_a_wrong_field_is_named(api, alice, field, value):
    body = {"username": "alice", "password": "correct horse", field: value}
    answer = api.post("/token", body, format="json")
    assert answer.status_code == 400
    assert list(answer.json()) == [field]


@pytest.mark.parametrize("field", ["username", "password"])
def test_a_missing_field_is_named(api, db, field):
    body = {"username": "alice", "password": "correct horse"}
    del body[field]
    for answer in (
        api.post("/token", body, format="json"),
        api.post("/token", "&".join(f"{k}={v}" for k, v in body.items()), content_type=FORM),
    ):
        assert (answer.status_code, list(answer.json())) == (400, [field])


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", '"alice"', "null", '{"username": "\\ud800", "password": "x"}', "[" * 200_000, '{"username": NaN}'],
)
def test_a_broken_body_is_400(api, db, body):
    assert api.post("/token", body, content_type="application/json").status_code == 400


@pytest.mark.parametrize("kind", ["application/json", FORM])
@pytest.mark.parametrize("charset", ["utf-16", "bz2_codec", "idna", "no-such"])
def test_a_strange_charset_is_no_server_error(api, db, kind, charset):
    answer = api.post("/token", b'{"username": "a"}', content_type=f"{kind}; charset={charset}")
    assert answer.status_code == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x"])
def test_another_content_type_is_415(api, db, kind):
    assert api.post("/token", "username=alice", content_type=kind).status_code == 415


def test_a_huge_body_is_413(api, db, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    body = {"username": "alice", "password": "x" * 2000}
    answer = api.post("/token", body, format="json")
    assert answer.status_code == 413
    assert "1000 bytes" in answer.json()["detail"]


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_get_is_405_also_for_a_browser(api, db, accept):
    assert api.get("/token", HTTP_ACCEPT=accept).status_code == 405


# Tokens that no longer count


def _disable(user):
    user.is_active = False
    user.save()


def _new_password(user):
    user.set_password("another horse")
    user.save(update_fields=["password"])


def _new_role(user):
    user.role = "Admin"
    user.save()


@pytest.mark.parametrize("change", [_disable, _new_password, _new_role, User.delete])
def test_a_change_of_rights_ends_both_tokens(api, alice, change):
    access, refresh = issue_tokens(alice)
    api.credentials(HTTP_AUTHORIZATION=f"Bearer {access}")
    assert api.post("/db_request/get_token_info/").status_code == 200
    change(User.objects.get(pk=alice.pk))
    assert api.post("/db_request/get_token_info/").status_code == 401
    answer = api.post("/token/refresh", {"refresh_token": refresh}, format="json")
    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")


def _expired(user):
    token = RefreshToken(issue_tokens(user)[1])
    token.set_exp(lifetime=-timedelta(seconds=1))
    return str(token)


def _without_version(user):
    return str(RefreshToken.for_user(user))


@pytest.mark.parametrize(
    "make", [lambda user: issue_tokens(user)[0], lambda user: "junk", lambda user: "a.b.c", _expired, _without_version]
)
def test_what_is_no_refresh_token_is_401(api, alice, make):
    answer = api.post("/token/refresh", {"refresh_token": make(alice)}, format="json")
    assert answer.status_code == 401
    assert list(answer.json()) == ["detail"]


@pytest.mark.parametrize("body", [{}, {"refresh_token": 3}, {"refresh_token": None}])
def test_refresh_names_the_wrong_field(api, db, body):
    answer = api.post("/token/refresh", body, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["refresh_token"])


def test_a_refresh_token_does_not_log_in(api, alice):
    api.credentials(HTTP_AUTHORIZATION=f"Bearer {issue_tokens(alice)[1]}")
    assert api.post("/db_request/get_token_info/").status_code == 401


def test_an_expired_access_token_is_401(api, alice):
    token = AccessToken(issue_tokens(alice)[0])
    token.set_exp(lifetime=-timedelta(seconds=1))
    api.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    answer = api.post("/db_request/get_token_info/")
    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
