"""What each scope of an API key opens: every endpoint about people, and how a key may be sent."""

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.test import APIClient
from rest_framework.views import APIView

from accounts import keys, scopes
from accounts.auth import issue_tokens
from accounts.models import ApiKey, User

INFERENCE, MANAGEMENT, READ = ApiKey.Scope.values

READS = [
    ("get", "/api/v1/keys", None),
    ("get", "/api/v1/keys/{key}", None),
    ("options", "/api/v1/keys", None),
    ("get", "/api/v1/users", None),
    ("get", "/api/v1/users/{user}", None),
    ("get", "/api/v1/users/me", None),
    ("get", "/db_request/get_all_users/", None),
    ("get", "/db_request/get_all_data/", None),
    ("post", "/db_request/check_user_existence/", {"username": "alice"}),
    ("post", "/db_request/get_token_info/", {}),
]
CHANGES = [
    ("post", "/api/v1/keys", {"name": "another", "scopes": ["read-only"]}),
    ("patch", "/api/v1/keys/{key}", {"name": "renamed"}),
    ("delete", "/api/v1/keys/{key}", None),
    ("post", "/api/v1/users", {"username": "carol", "password": "x"}),
    ("patch", "/api/v1/users/{user}", {"gen_token_limit": 5}),
    ("post", "/db_request/add_user/", {"username": "carol", "password": "x"}),
    ("post", "/db_request/update_token_limit/", {"username": "alice", "gen_token_limit": 5}),
    ("post", "/db_request/update_token_number/", {"username": "alice", "gen_token_number": 5}),
    ("put", "/db_request/disable_user/", {"username": "alice"}),
    ("put", "/db_request/enable_user/", {"username": "alice"}),
]
OPEN = [("get", "/api/v1/key", None), ("get", "/api/schema", None)]
ALL_WITH = {
    READ: READS + OPEN,
    MANAGEMENT: READS + CHANGES + OPEN,
    INFERENCE: OPEN,
}


@pytest.mark.parametrize("scope", ALL_WITH)
@pytest.mark.parametrize(("method", "path", "body"), READS + CHANGES + OPEN)
def test_a_scope_opens_what_it_is_for_and_nothing_else(root, alice, key_of, scope, method, path, body):
    other, _ = keys.make(alice, {"name": "other"})
    caller = key_of(root, scopes=[scope])
    answer = getattr(caller, method)(path.format(key=other.pk, user=alice.pk), body, format="json")
    if (method, path, body) in ALL_WITH[scope]:
        assert answer.status_code in (200, 201, 204), answer.content
        return
    assert answer.status_code == 403
    missing = MANAGEMENT if (method, path, body) in CHANGES else READ
    assert answer.json() == {"detail": f"This API key lacks the scope {missing}."}
    assert User.objects.count() == 3
    assert ApiKey.objects.get(pk=other.pk).version == 1


def _views(resolver: URLResolver):
    for entry in resolver.url_patterns:
        if isinstance(entry, URLResolver):
            yield from _views(entry)
        elif isinstance(entry, URLPattern) and issubclass(getattr(entry.callback, "cls", object), APIView):
            yield entry.callback


def test_no_endpoint_but_the_open_ones_changes_something_for_a_key_that_only_reads():
    """Those that read by POST, and what a key without any scope may call, are named here, on purpose."""
    reading, any_key = set(), set()
    nothing = ApiKey(scopes=[])
    for callback in _views(get_resolver()):
        view = callback.cls(**callback.initkwargs)
        view.action_map = getattr(callback, "actions", None)
        view.action = "list"
        if not scopes.missing(ApiKey(scopes=[READ]), "POST", view):
            reading.add(callback.cls.__name__)
        if not scopes.missing(nothing, "POST", view):
            any_key.add(callback.cls.__name__)
    open_to_all = {"TokenView", "RefreshView", "SpectacularAPIView", "SpectacularSwaggerSplitView"}
    assert any_key == open_to_all | {"CallerView"}
    assert {"TokenInfoView", "UserExistenceView"} <= reading
    changing = {
        "KeyViewSet",
        "UserViewSet",
        "AddUserView",
        "LogoutView",
        "LlmRequestView",
        "StartView",
        "TerminateView",
    }
    assert not changing & reading


def test_several_scopes_open_what_each_of_them_does(root, key_of):
    caller = key_of(root, scopes=[INFERENCE, READ])
    assert caller.get("/api/v1/users").status_code == 200
    assert caller.post("/api/v1/keys", {"name": "x"}, format="json").status_code == 403


class _Inference(APIView):
    scope = "inference"


@pytest.mark.parametrize(
    ("held", "method", "missing"),
    [
        ([INFERENCE], "POST", ""),
        ([MANAGEMENT], "POST", INFERENCE),
        ([READ], "POST", INFERENCE),
        ([INFERENCE], "GET", ""),
        ([READ], "GET", ""),
        ([MANAGEMENT], "DELETE", INFERENCE),
        ([], "GET", READ),
    ],
)
def test_a_view_for_inference(held, method, missing):
    assert scopes.missing(ApiKey(scopes=held), method, _Inference()) == missing


def test_a_key_is_no_admins_unless_its_user_is(alice, key_of):
    answer = key_of(alice, scopes=[MANAGEMENT, READ, INFERENCE]).get("/api/v1/users")
    assert (answer.status_code, answer.json()) == (403, {"detail": "Only an admin may do this."})


def test_keys_open_no_page(root, key_of):
    caller = key_of(root, scopes=[MANAGEMENT, READ, INFERENCE])
    for path in ("/admin/", "/admin/accounts/user/", "/keys"):
        answer = caller.get(path, HTTP_X_API_KEY=caller.clear)
        assert answer.status_code == 302
        assert "login" in answer["Location"]


# How it is sent


def headers_of(token):
    return [
        {"HTTP_AUTHORIZATION": f"Bearer {token}"},
        {"HTTP_AUTHORIZATION": f"bearer  {token}"},
        {"HTTP_X_API_KEY": token},
    ]


def test_a_key_is_taken_from_both_headers(alice):
    key, clear = keys.make(alice, {"name": "x"})
    for headers in headers_of(clear):
        answer = APIClient().get("/api/v1/key", **headers)
        assert answer.json()["key"]["id"] == key.pk
    assert ApiKey.objects.get(pk=key.pk).last_used_at is not None


@pytest.mark.parametrize("token", ["", "sk-", "sk-" + "a" * 48, "sk-\xfc", "junk", "a.b.c", "sk-' OR '1'='1"])
def test_a_bad_one_is_401(alice, client_of, token):
    browser = APIClient()
    browser.force_login(alice)
    for headers in headers_of(token):
        for client in (APIClient(), browser):
            answer = client.get("/api/v1/key", **headers)
            assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")


def test_the_authorization_header_comes_first(alice, bob):
    clear = keys.make(bob, {"name": "x"})[1]
    access = issue_tokens(alice)[0]
    both = APIClient().get("/api/v1/key", HTTP_AUTHORIZATION=f"Bearer {access}", HTTP_X_API_KEY=clear)
    assert (both.json()["username"], both.json()["key"]) == ("alice", None)
    bad = APIClient().get("/api/v1/key", HTTP_AUTHORIZATION="Bearer junk", HTTP_X_API_KEY=clear)
    assert bad.status_code == 401
    basic = APIClient().get("/api/v1/key", HTTP_AUTHORIZATION="Basic YTpi", HTTP_X_API_KEY=clear)
    assert basic.json()["username"] == "bob"


def test_none_is_401(db):
    answer = APIClient().get("/api/v1/key")
    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")


def test_a_key_revoked_counts_no_more_from_the_next_request_on(alice, client_of, key_of):
    caller = key_of(alice)
    assert caller.get("/api/v1/key").status_code == 200
    assert client_of(alice).delete(f"/api/v1/keys/{caller.key.pk}").status_code == 204
    answer = caller.get("/api/v1/key")
    assert (answer.status_code, answer.json()) == (401, {"detail": "This API key was revoked."})


def test_a_disabled_users_key_counts_no_more_from_the_next_request_on(alice, client_of, root, key_of):
    caller = key_of(alice)
    client_of(root).put("/db_request/disable_user/", {"username": "alice"}, format="json")
    assert caller.get("/api/v1/key").status_code == 401
