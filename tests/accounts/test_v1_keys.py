"""/api/v1/keys and /api/v1/key."""

from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from accounts import keys
from accounts.keys import PACES
from accounts.models import ApiKey, KeyLimit, TokenLimit
from accounts.quotas import MOST
from tests.live_rows import add_to_row

KEYS = "/api/v1/keys"


def make(caller, **body):
    return caller.post(KEYS, {"name": "notebook", **body}, format="json")


def ids(answer) -> list[int]:
    assert answer.status_code == 200, answer.content
    return [key["id"] for key in answer.json()["results"]]


@pytest.fixture
def as_alice(client_of, alice):
    return client_of(alice)


@pytest.mark.parametrize("path", [KEYS, KEYS + "/"])
def test_a_key_is_made_and_shown_once(as_alice, path):
    answer = as_alice.post(path, {"name": "notebook"}, format="json")
    assert (answer.status_code, answer["Cache-Control"]) == (201, "no-store")
    body = answer.json()
    clear = body.pop("key")
    row = ApiKey.objects.get()
    assert body == {
        "id": row.pk, "user": row.user_id, "username": "alice", "name": "notebook", "prefix": clear[:7],
        "last_four": clear[-4:], "scopes": ["inference"], "models": [], "may_wake": True, "expires_at": None,
        "revoked_at": None, "created_at": row.created_at.isoformat().replace("+00:00", "Z"), "last_used_at": None,
        "prompt_token_limit": None, "prompt_token_number": 0, "gen_token_limit": None, "gen_token_number": 0,
        **dict.fromkeys(PACES),
    }  # fmt: skip
    assert as_alice.get(f"{path.rstrip('/')}/{row.pk}").json() == body
    assert as_alice.get(path).json()["results"] == [body]
    assert APIClient().get("/api/v1/key", HTTP_X_API_KEY=clear).status_code == 200


def test_all_of_it_can_be_chosen_and_changed(as_alice):
    end = (timezone.now() + timedelta(days=3)).isoformat()
    chosen = {
        "scopes": ["read-only", "inference", "inference"], "models": ["tiny", "alices"], "expires_at": end,
        "prompt_token_limit": 5, "gen_token_limit": "6", "requests_per_minute": 7, "tokens_per_day": 8,
    }  # fmt: skip
    made = make(as_alice, **chosen).json()
    expected = {**chosen, "scopes": ["inference", "read-only"], "gen_token_limit": 6}
    del expected["expires_at"]
    assert {name: made[name] for name in expected} == expected
    path = f"{KEYS}/{made['id']}/"
    changed = as_alice.patch(path, {"gen_token_limit": None, "expires_at": None, "models": []}, format="json")
    assert changed.status_code == 200
    expected |= {"gen_token_limit": None, "expires_at": None, "models": []}
    assert {name: changed.json()[name] for name in expected} == expected
    assert "key" not in changed.json()
    assert as_alice.get(path).json() == changed.json()


@pytest.mark.parametrize(
    "field", ["digest", "prefix", "user", "prompt_token_number", "revoked_at", "last_used_at", "key"]
)
def test_what_is_not_to_be_chosen_is_not(as_alice, bob, field):
    before = make(as_alice).json()
    del before["key"]
    given = {"user": bob.pk, "digest": "0" * 64}.get(field, 7)
    after = as_alice.patch(f"{KEYS}/{before['id']}", {field: given}, format="json").json()
    assert after == before
    assert ApiKey.objects.get().digest != "0" * 64
    assert make(as_alice, **{field: given}).json()["username"] == "alice"


WRONG = [
    ("name", [None, "", 7, "x" * 101, "nul\x00", ["a"]]),
    ("scopes", [None, [], "inference", ["admin"], [7], {"inference": 1}, [["inference"]]]),
    ("models", [None, "tiny", [7], [""], ["x" * 201], ["a"] * 101, ["nul\x00"]]),
    ("expires_at", ["yesterday", 7, "2001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", True]),
    ("prompt_token_limit", [-1, 1.5, True, "ten", MOST + 1, 10**400]),
    ("requests_per_minute", [-1, 2**31]),
]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG for value in values])
def test_a_wrong_field_is_named(as_alice, field, value):
    key = make(as_alice).json()["id"]
    for answer in (make(as_alice, **{field: value}), as_alice.patch(f"{KEYS}/{key}", {field: value}, format="json")):
        assert (answer.status_code, list(answer.json())) == (400, [field])
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("body", ["", "[]", "null", '"x"', "{", '{"scopes": ["inference"]}'])
def test_what_is_no_order_is_400(as_alice, body):
    assert as_alice.post(KEYS, body, content_type="application/json").status_code == 400


def test_revoking_is_for_good_and_may_be_said_twice(as_alice):
    made = make(as_alice).json()
    path = f"{KEYS}/{made['id']}"
    for _ in range(2):
        answer = as_alice.delete(path)
        assert (answer.status_code, answer.content) == (204, b"")
    assert as_alice.get(path).json()["revoked_at"] is not None
    assert as_alice.patch(path, {"name": "x"}, format="json").status_code == 400
    assert APIClient().get("/api/v1/key", HTTP_X_API_KEY=made["key"]).status_code == 401


def test_there_is_no_put(as_alice):
    assert as_alice.put(f"{KEYS}/{make(as_alice).json()['id']}", {"name": "x"}, format="json").status_code == 405


# Whose


@pytest.mark.parametrize("method", ["get", "patch", "delete"])
def test_somebody_elses_key_is_404(as_alice, alice, bob, key_of, method):
    others, _ = keys.make(bob, {"name": "bobs"})
    for caller in (as_alice, key_of(alice, scopes=["management"])):
        for pk in (others.pk, 10**17, 10**19, "x", "-1", 0):
            answer = getattr(caller, method)(
                f"{KEYS}/{pk}", {"name": "mine"} if method == "patch" else None, format="json"
            )
            assert answer.status_code == 404
    assert ApiKey.objects.get(pk=others.pk).version == 1


def test_the_list_is_of_ones_own(as_alice, alice, bob, root, client_of):
    first = keys.make(alice, {"name": "b"})[0]
    second = keys.make(alice, {"name": "a"})[0]
    bobs = keys.make(bob, {"name": "bobs"})[0]
    assert ids(as_alice.get(KEYS)) == [second.pk, first.pk]
    assert ids(as_alice.get(KEYS, {"user": bob.pk})) == []
    admin = client_of(root)
    assert ids(admin.get(KEYS)) == [bobs.pk, second.pk, first.pk]
    assert ids(admin.get(KEYS, {"user": bob.pk})) == [bobs.pk]


def test_an_admin_revokes_anybodys_and_sees_none_in_clear(alice, root, client_of, key_of):
    caller = key_of(alice)
    admin = client_of(root)
    assert caller.clear not in admin.get(KEYS).content.decode()
    assert caller.key.digest not in admin.get(f"{KEYS}/{caller.key.pk}").content.decode()
    assert admin.delete(f"{KEYS}/{caller.key.pk}").status_code == 204
    assert caller.get("/api/v1/key").status_code == 401


def test_filters_order_and_pages(as_alice, alice):
    made = [keys.make(alice, {"name": name})[0] for name in "cab"]
    keys.revoke(made[0])
    assert ids(as_alice.get(KEYS, {"revoked": "true"})) == [made[0].pk]
    assert ids(as_alice.get(KEYS, {"revoked": "false", "ordering": "name"})) == [made[1].pk, made[2].pk]
    assert ids(as_alice.get(KEYS, {"ordering": "-name"})) == [made[0].pk, made[2].pk, made[1].pk]
    assert ids(as_alice.get(KEYS, {"ordering": "digest"})) == [made[2].pk, made[1].pk, made[0].pk]
    page = as_alice.get(KEYS, {"limit": 2, "ordering": "id"})
    assert ids(page) == [made[0].pk, made[1].pk]
    assert ids(as_alice.get(page.json()["next"])) == [made[2].pk]


@pytest.mark.parametrize("query", [{"user": "x"}, {"user": 0}, {"user": 2**63}, {"revoked": "perhaps"}])
def test_a_wrong_filter_is_named(as_alice, query):
    answer = as_alice.get(KEYS, query)
    assert (answer.status_code, list(answer.json())) == (400, list(query))


@pytest.mark.parametrize("cursor", ["x", "cD1nYXJiYWdl", "cD0lMDA=", "bz05OTk5OTk5OTk5"])
@pytest.mark.parametrize("ordering", ["id", "name", "created_at"])
def test_a_made_up_cursor_is_no_server_error(as_alice, cursor, ordering):
    assert as_alice.get(KEYS, {"cursor": cursor, "ordering": ordering}).status_code in (200, 404)


# A key that makes keys


def test_a_key_makes_none_with_more_rights(alice, key_of):
    caller = key_of(alice, scopes=["management"], allowed_models=["tiny"], gen_token_limit=5)
    for more in ({"scopes": ["inference"]}, {"models": []}, {"models": ["huge"]}, {"gen_token_limit": 6}):
        for answer in (make(caller, **more), caller.patch(f"{KEYS}/{caller.key.pk}", more, format="json")):
            assert answer.status_code == 403
            assert next(iter(more)) in answer.json()["detail"]
    made = make(caller).json()
    assert (made["scopes"], made["models"], made["gen_token_limit"]) == (["management"], ["tiny"], 5)
    assert ApiKey.objects.count() == 2


# /api/v1/key


def test_the_caller_with_a_token(as_alice, alice):
    TokenLimit.objects.filter(user=alice).update(prompt_token_number=1200, gen_token_number=2000)
    for path in ("/api/v1/key", "/api/v1/key/"):
        answer = as_alice.get(path)
        assert answer["Cache-Control"] == "no-store"
        body = answer.json()
        (rate,) = body["limits"].pop("rates")
        assert (rate["name"], rate["limit"], rate["used"], rate["remaining"]) == ("requests_per_minute", 6000, 0, 6000)
        assert body == {
            "username": "alice", "role": "User", "key": None,
            "limits": {
                "prompt_tokens": {"limit": 10_000, "used": 1200, "reserved": 0, "remaining": 8800},
                "generated_tokens": {"limit": 1000, "used": 2000, "reserved": 0, "remaining": 0},
                "resets": None,
            },
        }  # fmt: skip


def test_the_caller_with_a_key(alice, key_of, live):
    caller = key_of(alice, allowed_models=["tiny"], gen_token_limit=50, tokens_per_month=100, requests_at_once=2)
    KeyLimit.objects.filter(key=caller.key).update(gen_token_number=20)
    live(caller.key)
    add_to_row(f"k{caller.key.pk}", gr=10)
    key = caller.get("/api/v1/key").json()["key"]
    rates = {rate["name"]: (rate["limit"], rate["used"], rate["remaining"]) for rate in key["limits"].pop("rates")}
    assert rates == {"tokens_per_month": (100, 0, 100), "requests_at_once": (2, 0, 2)}
    assert key == {
        "id": caller.key.pk, "name": "a key", "shown": f"{caller.clear[:7]}…{caller.clear[-4:]}",
        "scopes": ["inference"], "models": ["tiny"], "may_wake": True, "expires_at": None,
        "limits": {
            "prompt_tokens": {"limit": None, "used": 0, "reserved": 0, "remaining": None},
            "generated_tokens": {"limit": 50, "used": 20, "reserved": 10, "remaining": 20},
            "resets": None,
        },
    }  # fmt: skip
