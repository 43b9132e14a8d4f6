"""API keys in Django's admin."""

import re

import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts import keys
from accounts.models import ApiKey

KEYS = "/admin/accounts/apikey/"


@pytest.fixture
def admin(root) -> Client:
    client = Client()
    client.force_login(root)
    return client


def text(answer) -> str:
    assert answer.status_code == 200
    return answer.content.decode()


def filled(user, **changes) -> dict[str, object]:
    return {"user": user.pk, "name": "notebook", "scopes": ["inference"], "allowed_models": "", **changes}


def test_a_key_is_made_for_a_user_and_shown_once(admin, alice):
    assert ">alice<" not in text(admin.get(f"{KEYS}add/")), "users are searched: there may be thousands"
    answer = admin.post(f"{KEYS}add/", filled(alice, allowed_models="tiny", tokens_per_day="7"), follow=True)
    clear = re.search(r"sk-[A-Za-z0-9]{48}", text(answer))[0]
    key = ApiKey.objects.select_related("limit").get()
    assert (key.user, key.allowed_models, key.limit.tokens_per_day) == (alice, ["tiny"], 7)
    assert APIClient().get("/api/v1/key", HTTP_X_API_KEY=clear).json()["username"] == "alice"
    for path in (KEYS, f"{KEYS}{key.pk}/change/", f"/admin/accounts/user/{alice.pk}/change/"):
        page = text(admin.get(path))
        assert "notebook" in page
        assert f"{key.prefix}…{key.last_four}" in page
        assert clear not in page
        assert key.digest not in page


def test_the_clear_key_is_not_in_the_database(admin, alice, root):
    from django.contrib.admin.models import LogEntry
    from django.contrib.sessions.models import Session

    answer = admin.post(f"{KEYS}add/", filled(alice), follow=True)
    clear = re.search(r"sk-[A-Za-z0-9]{48}", text(answer))[0]
    kept = [str(session.get_decoded()) for session in Session.objects.all()]
    kept += [f"{entry.object_repr} {entry.change_message}" for entry in LogEntry.objects.all()]
    assert len(kept) == 2
    assert not [one for one in kept if clear in one]


def test_limits_and_scopes_change_and_the_rest_stays(admin, alice, live, committed):
    key, _ = keys.make(alice, {"name": "notebook", "allowed_models": ["a", "b"], "prompt_token_limit": 5})
    live(key)
    form = filled(alice, allowed_models="a\nb", prompt_token_limit="5", gen_token_limit="9", scopes=["read-only"])
    keys.change(key, {"name": "renamed meanwhile"})
    form |= {"name": "renamed meanwhile"}
    with committed():
        answer = admin.post(f"{KEYS}{key.pk}/change/", form)
    assert answer.status_code == 302, text(answer)
    key = ApiKey.objects.select_related("limit").get()
    assert (key.name, key.scopes, key.allowed_models, key.version) == (
        "renamed meanwhile",
        ["read-only"],
        ["a", "b"],
        3,
    )
    assert (key.limit.prompt_token_limit, key.limit.gen_token_limit) == (5, 9)
    assert live(key, load=False)["gl"] == 9


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("scopes", []), ("scopes", ["root"]), ("gen_token_limit", "-1"),
        ("tokens_per_day", "9" * 400), ("requests_at_once", str(2**31)), ("expires_at_0", "yesterday"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused(admin, alice, field, value):
    key, _ = keys.make(alice, {"name": "notebook"})
    for path in (f"{KEYS}add/", f"{KEYS}{key.pk}/change/"):
        assert "errorlist" in text(admin.post(path, filled(alice, **{field: value})))
    assert ApiKey.objects.get().version == 1


def test_keys_are_revoked_and_then_only_looked_at(admin, alice, key_of, committed, heard):
    caller = key_of(alice)
    with committed():
        admin.post(KEYS, {"action": "revoke", "_selected_action": [caller.key.pk]})
    assert caller.get("/api/v1/key").status_code == 401
    assert heard() == ["users"]
    page = text(admin.get(f"{KEYS}{caller.key.pk}/change/"))
    assert "revoked" in page
    assert 'name="_save"' not in page
    assert admin.post(f"{KEYS}{caller.key.pk}/change/", filled(alice, name="x")).status_code == 403
    assert admin.post(f"{KEYS}{caller.key.pk}/delete/", {"post": "yes"}).status_code == 403
    assert text(admin.get(KEYS, {"revoked_at__isempty": "0", "q": "alice"}))


def test_a_users_page_with_keys_can_be_saved(admin, alice):
    from tests.accounts.test_admin import form_of, save

    keys.make(alice, {"name": "notebook"})
    save(admin, alice, form_of(admin, alice), first_name="Al")
    alice.refresh_from_db()
    assert alice.first_name == "Al"
    assert ApiKey.objects.get().name == "notebook"


def test_it_is_for_admins(alice):
    client = Client()
    client.force_login(alice)
    assert client.get(KEYS).status_code == 302
