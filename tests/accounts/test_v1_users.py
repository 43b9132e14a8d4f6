"""/api/v1/users."""

import pytest
from rest_framework.test import APIClient

from accounts import quotas
from accounts.auth import issue_tokens
from accounts.keys import PACES
from accounts.models import Role, TokenLimit, User
from accounts.quotas import MOST

USERS = "/api/v1/users"


@pytest.fixture
def admin(client_of, root):
    return client_of(root)


def names(answer) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [user["username"] for user in answer.json()["results"]]


def shown(user) -> dict:
    user = User.objects.select_related("token_limit").get(pk=user.pk)
    limit = user.token_limit
    return {
        "id": user.pk, "username": user.username, "role": user.role, "is_active": user.is_active,
        "date_joined": user.date_joined.isoformat().replace("+00:00", "Z"), "weight": user.weight,
        "prompt_token_limit": limit.prompt_token_limit, "prompt_token_number": limit.prompt_token_number,
        "gen_token_limit": limit.gen_token_limit, "gen_token_number": limit.gen_token_number,
        **{name: getattr(limit, name) for name in PACES},
    }  # fmt: skip


# Who may

ADMIN_ONLY = [
    ("get", USERS, None),
    ("post", USERS, {"username": "carol", "password": "x"}),
    ("get", USERS + "/{0}", None),
    ("patch", USERS + "/{0}", {"role": "Admin", "is_active": True, "gen_token_limit": MOST, "password": "mine"}),
]


@pytest.mark.parametrize(("method", "path", "body"), ADMIN_ONLY)
@pytest.mark.parametrize("whose", ["alice", "bob"])
def test_only_an_admin_may(people, client_of, method, path, body, whose):
    before = [shown(user) for user in people.values()]
    for slash in ("", "/"):
        address = path.format(people[whose].pk) + slash
        refused = getattr(client_of(people["alice"]), method)(address, body, format="json")
        assert (refused.status_code, list(refused.json())) == (403, ["detail"])
        unknown = getattr(APIClient(), method)(address, body, format="json")
        assert (unknown.status_code, unknown["WWW-Authenticate"]) == (401, "Bearer")
    assert [shown(user) for user in User.objects.order_by("pk")] == before
    allowed = getattr(client_of(people["root"]), method)(path.format(people[whose].pk), body, format="json")
    assert allowed.status_code == (201 if method == "post" else 200)


def test_everybody_sees_themselves(alice, root, client_of):
    for user in (alice, root):
        for path in (USERS + "/me", USERS + "/me/"):
            assert client_of(user).get(path).json() == shown(user)
    assert client_of(alice).patch(USERS + "/me", {"role": "Admin"}, format="json").status_code == 405
    assert APIClient().get(USERS + "/me").status_code == 401


@pytest.mark.parametrize("pk", [10**17, 10**19, "x", "-1", "0"])
def test_who_does_not_exist_is_404(admin, pk):
    assert admin.get(f"{USERS}/{pk}").status_code == 404
    assert admin.patch(f"{USERS}/{pk}", {}, format="json").status_code == 404


def test_neither_put_nor_delete(admin, alice):
    for method in (admin.put, admin.delete):
        assert method(f"{USERS}/{alice.pk}", {}, format="json").status_code == 405


# Adding


def test_a_user_is_added_with_the_defaults(admin):
    answer = admin.post(USERS, {"username": "carol", "password": "pw"}, format="json")
    carol = User.objects.get(username="carol")
    assert (answer.status_code, answer.json()) == (201, shown(carol))
    assert (carol.role, carol.token_limit.prompt_token_limit, carol.token_limit.requests_per_minute) == (
        Role.USER, 10_000, 6000,
    )  # fmt: skip
    assert APIClient().post("/token", {"username": "carol", "password": "pw"}, format="json").status_code == 200


def test_a_user_is_added_as_chosen(admin):
    chosen = {
        "username": "carol", "password": "pw", "role": "Admin", "is_active": False, "prompt_token_limit": "1",
        "gen_token_limit": 2, "requests_per_minute": None, "tokens_per_day": 3, "gen_token_number": 99, "weight": 0.5,
    }  # fmt: skip
    body = admin.post(USERS, chosen, format="json").json()
    del chosen["password"]
    assert {name: body[name] for name in chosen} == {**chosen, "prompt_token_limit": 1, "gen_token_number": 0}
    assert "password" not in body
    assert User.objects.get(username="carol").is_staff


@pytest.mark.parametrize("username", ["alice", "ALICE"])
def test_a_taken_name_is_400_and_adds_nothing(admin, alice, username):
    answer = admin.post(USERS, {"username": username, "password": "x"}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["username"])
    assert User.objects.count() == 3


WRONG = [
    ("username", [None, 7, "", "a b", "nul\x00", "x" * 151]),
    ("password", [None, 7, "", "x" * 5000, ["x"]]),
    ("role", [None, "admin", "Root", 7, ["Admin"]]),
    ("is_active", [None, "perhaps", 7, []]),
    ("weight", [None, 0, -1, 0.09, 100.1, True, "", "nan", "inf", "ten", [1], 10**400]),
    ("prompt_token_limit", [None, -1, 1.5, True, "ten", MOST + 1]),
    ("tokens_per_day", [-1, "ten", MOST + 1]),
    ("requests_at_once", [2**31]),
]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG for value in values])
def test_a_wrong_field_is_named(admin, alice, field, value):
    before = shown(alice)
    answer = admin.post(USERS, {"username": "carol", "password": "x", field: value}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, [field])
    if field != "username":
        answer = admin.patch(f"{USERS}/{alice.pk}", {field: value}, format="json")
        assert (answer.status_code, list(answer.json())) == (400, [field])
    assert User.objects.count() == 3
    assert shown(alice) == before


# Changing


def test_limits_change_and_are_told(admin, alice, live, committed):
    live(alice)
    quotas.set_numbers(alice, prompt=7)
    body = {"prompt_token_limit": 5, "username": "eve", "prompt_token_number": 0}
    with committed():
        answer = admin.patch(f"{USERS}/{alice.pk}", body, format="json")
    assert answer.status_code == 200
    assert (answer.json()["username"], answer.json()["prompt_token_limit"]) == ("alice", 5)
    assert answer.json()["prompt_token_number"] == 7
    assert live(alice)["pl"] == 5


def test_limits_by_time_change_and_are_told(admin, alice, live, committed):
    assert live(alice)["rm"] == 6000
    with committed():
        admin.patch(f"{USERS}/{alice.pk}", {"requests_per_minute": None, "tokens_per_day": 9}, format="json")
    limit = TokenLimit.objects.get(user=alice)
    assert (limit.requests_per_minute, limit.tokens_per_day) == (None, 9)
    loaded = live(alice)
    assert (loaded.get("rm"), loaded["td"]) == (None, 9)


@pytest.mark.parametrize("weight", [3, "2.5", 0.1, 100])
def test_a_weight_changes_is_told_and_ends_no_session(admin, alice, client_of, committed, heard, weight):
    caller = client_of(alice)
    with committed():
        answer = admin.patch(f"{USERS}/{alice.pk}", {"weight": weight}, format="json")
    assert (answer.status_code, answer.json()["weight"]) == (200, float(weight))
    assert heard() == ["users"]
    assert caller.get(USERS + "/me").json() == shown(alice)


@pytest.mark.parametrize("change", [{"password": "another horse"}, {"role": "Admin"}, {"is_active": False}])
def test_a_change_of_rights_counts_at_once(admin, alice, client_of, change):
    caller = client_of(alice)
    assert caller.get(USERS + "/me").status_code == 200
    assert admin.patch(f"{USERS}/{alice.pk}", change, format="json").status_code == 200
    assert caller.get(USERS + "/me").status_code == 401
    after = User.objects.get(pk=alice.pk)
    assert (after.role, after.is_staff) == (("Admin", True) if "role" in change else ("User", False))
    assert after.check_password(change.get("password", "correct horse"))
    assert after.is_active == change.get("is_active", True)


def test_the_same_again_ends_no_session(admin, alice):
    access, _ = issue_tokens(alice)
    assert admin.patch(f"{USERS}/{alice.pk}", {"role": "User", "is_active": True}, format="json").status_code == 200
    assert APIClient().get(USERS + "/me", HTTP_AUTHORIZATION=f"Bearer {access}").status_code == 200


@pytest.mark.parametrize("change", [{"role": "User"}, {"is_active": False}])
def test_an_admin_cannot_lock_themselves_out(admin, root, change):
    answer = admin.patch(f"{USERS}/{root.pk}", {**change, "gen_token_limit": 5}, format="json")
    assert answer.status_code == 400
    assert admin.patch(f"{USERS}/{root.pk}", {"gen_token_limit": 6}, format="json").json() == shown(root)
    assert shown(root)["role"] == "Admin"


# The list


def test_filters_search_order_and_pages(admin, alice, bob):
    bob.is_active = False
    bob.save()
    assert names(admin.get(USERS)) == ["alice", "bob", "root"]
    assert names(admin.get(USERS, {"ordering": "-date_joined"})) == ["root", "bob", "alice"]
    assert names(admin.get(USERS, {"role": "Admin"})) == ["root"]
    assert names(admin.get(USERS, {"is_active": "false"})) == ["bob"]
    assert names(admin.get(USERS, {"is_active": "true", "role": "User"})) == ["alice"]
    assert names(admin.get(USERS, {"username": "bob"})) == ["bob"]
    assert names(admin.get(USERS, {"search": "LIC"})) == ["alice"]
    page = admin.get(USERS, {"limit": 2})
    assert names(page) == ["alice", "bob"]
    assert names(admin.get(page.json()["next"])) == ["root"]


@pytest.mark.parametrize(
    "query", [{"role": "x"}, {"is_active": "perhaps"}, {"username": "nul\x00"}, {"search": "nul\x00"}]
)
def test_a_wrong_filter_is_400(admin, query):
    assert admin.get(USERS, query).status_code == 400


def test_the_list_takes_as_many_queries_for_many_as_for_one(admin, people, django_assert_max_num_queries):
    for number in range(20):
        User.objects.create_user(f"user{number}")
    with django_assert_max_num_queries(3):
        assert len(names(admin.get(USERS))) == 23
