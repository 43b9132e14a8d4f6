"""The /db_request/ endpoints about people."""

import pytest
from rest_framework.test import APIClient

from accounts.auth import issue_tokens
from accounts.models import Role, TokenLimit, User
from accounts.quotas import MOST
from inference import conversations
from tests.accounts.conftest import NOW

ADMIN_ONLY = [
    ("post", "add_user", {"username": "carol", "password": "x"}),
    ("post", "update_token_limit", {"username": "alice", "gen_token_limit": 5}),
    ("post", "update_token_number", {"username": "alice", "gen_token_number": 5}),
    ("post", "check_user_existence", {"username": "alice"}),
    ("put", "disable_user", {"username": "alice"}),
    ("put", "enable_user", {"username": "alice"}),
    ("get", "get_all_users", None),
    ("get", "get_all_data", None),
]
NAMING_A_USER = [row for row in ADMIN_ONLY if row[2] and row[1] != "add_user"]


@pytest.fixture
def admin(client_of, root):
    return client_of(root)


def row(user) -> tuple[int, int, int, int]:
    limit = TokenLimit.objects.get(user__username=user)
    return limit.prompt_token_number, limit.prompt_token_limit, limit.gen_token_number, limit.gen_token_limit


@pytest.mark.parametrize(("method", "name", "body"), ADMIN_ONLY)
def test_only_an_admin_may(client_of, alice, root, method, name, body):
    for path in (f"/db_request/{name}/", f"/db_request/{name}"):
        refused = getattr(client_of(alice), method)(path, body, format="json")
        assert refused.status_code == 403
        assert list(refused.json()) == ["detail"]
        unknown = getattr(APIClient(), method)(path, body, format="json")
        assert (unknown.status_code, unknown["WWW-Authenticate"]) == (401, "Bearer")
    assert getattr(client_of(root), method)(f"/db_request/{name}/", body, format="json").status_code == 200


@pytest.mark.parametrize(("method", "name", "body"), NAMING_A_USER)
def test_an_unknown_user_is_404(admin, method, name, body):
    answer = getattr(admin, method)(f"/db_request/{name}/", {**body, "username": "nobody"}, format="json")
    if name == "check_user_existence":
        assert answer.json() == {"user_exists": False}
    else:
        assert (answer.status_code, answer.json()) == (404, {"detail": "There is no user nobody."})


@pytest.mark.parametrize(("method", "name", "body"), NAMING_A_USER)
@pytest.mark.parametrize("username", [None, 5, ["alice"], ""])
def test_a_wrong_username_is_named(admin, method, name, body, username):
    answer = getattr(admin, method)(f"/db_request/{name}/", {**body, "username": username}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["username"])


# add_user


def test_a_new_user_has_the_original_defaults_and_can_log_in(admin):
    answer = admin.post("/db_request/add_user/", {"username": "carol", "password": "pw"}, format="json")
    assert answer.status_code == 200
    assert set(answer.json()) == {"status", "message"}
    assert row("carol") == (0, 10_000, 0, 1_000)
    assert User.objects.get(username="carol").role == Role.USER
    assert APIClient().post("/token", {"username": "carol", "password": "pw"}, format="json").status_code == 200


def test_numbers_may_be_strings_of_digits(admin):
    body = {
        "username": "carol", "password": "pw",
        "prompt_token_number": "1", "prompt_token_limit": 20, "gen_token_number": 3, "gen_token_limit": "40",
    }  # fmt: skip
    assert admin.post("/db_request/add_user/", body, format="json").status_code == 200
    assert row("carol") == (1, 20, 3, 40)


def test_a_limit_of_null_is_the_default_and_of_zero_is_zero(admin):
    body = {"username": "carol", "password": "pw", "prompt_token_limit": None, "gen_token_limit": 0}
    assert admin.post("/db_request/add_user/", body, format="json").status_code == 200
    assert row("carol") == (0, 10_000, 0, 0)


@pytest.mark.parametrize("name", ["alice", "ALICE", "Alice "])
def test_a_taken_name_is_400(admin, alice, name):
    answer = admin.post("/db_request/add_user/", {"username": name, "password": "pw"}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["username"])
    assert User.objects.filter(username__iexact="alice").count() == 1
    assert APIClient().post("/token", {"username": "alice", "password": "pw"}, format="json").status_code == 401


@pytest.mark.parametrize("value", [-1, "-1", 1.5, "1.5", "1.0", "1_0", "", "ten", True, [1], {}, MOST + 1, "9" * 2000])
@pytest.mark.parametrize("field", ["prompt_token_number", "gen_token_number", "gen_token_limit", "prompt_token_limit"])
def test_a_wrong_number_is_named_and_adds_nobody(admin, field, value):
    body = {"username": "carol", "password": "pw", field: value}
    answer = admin.post("/db_request/add_user/", body, format="json")
    assert (answer.status_code, list(answer.json())) == (400, [field])
    assert not User.objects.filter(username="carol").exists()


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\nb", "<b>", "x" * 151, "a\x00b", 5])
def test_a_name_that_is_none_is_400(admin, name):
    answer = admin.post("/db_request/add_user/", {"username": name, "password": "pw"}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["username"])


def test_an_empty_password_is_400(admin):
    answer = admin.post("/db_request/add_user/", {"username": "carol", "password": ""}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["password"])


def test_the_role_is_not_the_requests_to_give(admin):
    body = {"username": "carol", "password": "pw", "role": "Admin", "is_superuser": True}
    admin.post("/db_request/add_user/", body, format="json")
    carol = User.objects.get(username="carol")
    assert (carol.role, carol.is_superuser, carol.is_staff) == (Role.USER, False, False)


# Limits, numbers, standing


def test_limits_are_changed_one_by_one(admin, alice):
    answer = admin.post("/db_request/update_token_limit/", {"username": "alice", "gen_token_limit": "7"}, format="json")
    assert (answer.status_code, list(answer.json())) == (200, ["message"])
    assert row("alice") == (0, 10_000, 0, 7)
    body = {"username": "alice", "prompt_token_limit": 8}
    assert admin.post("/db_request/update_token_limit", body, format="json").status_code == 200
    assert row("alice") == (0, 8, 0, 7)


def test_numbers_are_changed_one_by_one(admin, alice):
    body = {"username": "alice", "gen_token_number": 7}
    answer = admin.post("/db_request/update_token_number/", body, format="json")
    assert (answer.status_code, list(answer.json())) == (200, ["message"])
    assert row("alice") == (0, 10_000, 7, 1_000)


@pytest.mark.parametrize("name", ["update_token_limit", "update_token_number"])
def test_a_change_of_nothing_is_400(admin, alice, name):
    answer = admin.post(f"/db_request/{name}/", {"username": "alice"}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["detail"])


def test_disabled_is_out_and_enabled_is_in_again_with_a_new_token(admin, client_of, alice):
    old = client_of(alice)
    assert admin.put("/db_request/disable_user/", {"username": "alice"}, format="json").status_code == 200
    assert old.post("/db_request/get_token_info/").status_code == 401
    login = {"username": "alice", "password": "correct horse"}
    assert APIClient().post("/token", login, format="json").status_code == 401

    assert admin.put("/db_request/enable_user/", {"username": "alice"}, format="json").status_code == 200
    assert old.post("/db_request/get_token_info/").status_code == 401
    assert APIClient().post("/token", login, format="json").status_code == 200


def test_disabling_twice_is_no_error(admin, alice):
    for _ in range(2):
        assert admin.put("/db_request/disable_user/", {"username": "alice"}, format="json").status_code == 200


def test_an_admin_cannot_disable_themselves(admin, root):
    answer = admin.put("/db_request/disable_user/", {"username": "root"}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["detail"])
    assert User.objects.get(pk=root.pk).is_active


# What was spent


def test_token_info_is_ones_own(client_of, alice, bob):
    TokenLimit.objects.filter(user=alice).update(prompt_token_number=12, gen_token_number=3)
    TokenLimit.objects.filter(user=bob).update(prompt_token_number=99)
    for path in ("/db_request/get_token_info/", "/db_request/get_token_info"):
        for body in ({}, {"username": "alice"}, {"username": "bob"}, {"username": "nobody"}, {"username": [1]}):
            answer = client_of(alice).post(path, body, format="json")
            assert answer.status_code == 200
            assert answer.json() == {
                "prompt_token_number": 12,
                "prompt_token_limit": 10_000,
                "gen_token_number": 3,
                "gen_token_limit": 1_000,
            }


def test_a_broken_body_is_400_for_everyone(client_of, alice, root):
    for user in (alice, root):
        for body in ("{", "[1]"):
            answer = client_of(user).post("/db_request/get_token_info/", body, content_type="application/json")
            assert answer.status_code == 400


def test_an_admin_may_name_a_user(admin, bob):
    TokenLimit.objects.filter(user=bob).update(prompt_token_number=99)
    answer = admin.post("/db_request/get_token_info/", {"username": "bob"}, format="json")
    assert answer.json()["prompt_token_number"] == 99
    assert admin.post("/db_request/get_token_info/", {}, format="json").json()["prompt_token_number"] == 0
    assert admin.post("/db_request/get_token_info/", {"username": None}, format="json").status_code == 200
    assert admin.post("/db_request/get_token_info/", {"username": "nobody"}, format="json").status_code == 404
    assert admin.post("/db_request/get_token_info/", {"username": [1]}, format="json").status_code == 400


def test_all_users_without_what_they_wrote(admin, alice):
    talk = conversations.start(alice, NOW, "Trees")
    conversations.add_turn(talk, "my secret prompt", "my secret answer", NOW)
    answer = admin.get("/db_request/get_all_users/")
    assert admin.get("/db_request/get_all_data/").json() == answer.json()
    found = {person["username"]: person for person in answer.json()}
    assert set(found) == {"alice", "bob", "root"}
    assert found["alice"] == {
        "user_id": str(alice.pk),
        "username": "alice",
        "role": "User",
        "disabled": False,
        "prompt_token_number": 0,
        "prompt_token_limit": 10_000,
        "gen_token_number": 0,
        "gen_token_limit": 1_000,
        "engines": [],
        "conversations": [{"number": 1, "name": "Trees"}],
    }
    assert b"secret" not in answer.content
    assert b"password" not in answer.content


def test_a_session_needs_the_csrf_token(root):
    """The browser's session works for the API, but no other site's form does."""
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(root)
    body = {"username": "root"}
    assert client.post("/db_request/check_user_existence/", body, format="json").status_code == 403
    client.get("/db_request/get_all_users/", HTTP_ACCEPT="text/html")  # DRF's page, which carries the token
    token = client.cookies["csrftoken"].value
    answer = client.post("/db_request/check_user_existence/", body, format="json", HTTP_X_CSRFTOKEN=token)
    assert answer.json() == {"user_exists": True}


def test_a_bearer_token_needs_no_csrf_token(root):
    client = APIClient(enforce_csrf_checks=True)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {issue_tokens(root)[0]}")
    answer = client.post("/db_request/check_user_existence/", {"username": "root"}, format="json")
    assert answer.status_code == 200
