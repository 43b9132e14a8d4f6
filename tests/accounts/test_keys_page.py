"""The page /keys."""

import re

import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts import keys
from accounts.models import ApiKey


@pytest.fixture
def browser(alice) -> Client:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    return client


def text(answer) -> str:
    assert answer.status_code == 200
    return answer.content.decode()


def csrf(page: str) -> str:
    return re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]


def make(browser, **body):
    token = csrf(text(browser.get("/keys")))
    return browser.post("/keys", {"name": "notebook", "scopes": ["inference"], "csrfmiddlewaretoken": token, **body})


@pytest.mark.parametrize("path", ["/keys", "/keys/"])
def test_it_is_for_who_is_logged_in(db, path):
    answer = Client().get(path)
    assert (answer.status_code, answer["Location"]) == (302, f"/login/?next={path}")


def test_a_key_is_made_and_shown_once(browser):
    answer = make(browser, allowed_models="tiny\r\n\r\n huge ", days="3", gen_token_limit="50")
    clear = re.search(r"sk-[A-Za-z0-9]{48}", text(answer))[0]
    assert "no-store" in answer["Cache-Control"]
    assert "sessionid" not in answer.cookies
    assert clear not in text(browser.get("/keys"))
    key = ApiKey.objects.select_related("limit").get()
    assert (key.name, key.scopes, key.allowed_models) == ("notebook", ["inference"], ["tiny", "huge"])
    assert (key.expires_at - key.created_at).days in (2, 3)
    assert (key.limit.prompt_token_limit, key.limit.gen_token_limit) == (None, 50)
    assert APIClient().get("/api/v1/key", HTTP_X_API_KEY=clear).json()["username"] == "alice"


def test_it_lists_ones_own(browser, alice, bob):
    for user, name in ((alice, "alice's <b>key</b>"), (bob, "bobs-key")):
        keys.make(user, {"name": name})
    page = text(browser.get("/keys"))
    assert "alice&#x27;s &lt;b&gt;key&lt;/b&gt;" in page
    assert '<td data-label="For">call engines' in page
    assert "bobs-key" not in page


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", "x" * 101), ("name", "nul\x00"), ("scopes", []), ("scopes", ["root"]),
        ("days", "0"), ("days", "9" * 400), ("gen_token_limit", "-1"), ("prompt_token_limit", "9" * 400),
        ("allowed_models", "x" * 201), ("allowed_models", "a\n" * 101),
    ],
)  # fmt: skip
def test_a_wrong_field_is_said(browser, field, value):
    page = text(make(browser, **{field: value}))
    assert 'class="error"' in page
    assert ApiKey.objects.count() == 0


def test_a_key_is_revoked(browser, alice):
    key, clear = keys.make(alice, {"name": "notebook"})
    path = f"/keys/{key.pk}/revoke"
    body = {"csrfmiddlewaretoken": csrf(text(browser.get("/keys")))}
    assert browser.get(path).status_code == 405
    assert browser.post(path, {}).status_code == 403
    for address in (path, path + "/"):
        answer = browser.post(address, body, follow=True)
        assert "is revoked" in text(answer)
    assert ">Revoke<" not in text(browser.get("/keys"))
    assert APIClient().get("/api/v1/key", HTTP_X_API_KEY=clear).status_code == 401


@pytest.mark.parametrize("pk", ["bobs", 10**17, 10**19, "x"])
def test_somebody_elses_key_is_404(browser, bob, pk):
    key, _ = keys.make(bob, {"name": "notebook"})
    body = {"csrfmiddlewaretoken": csrf(text(browser.get("/keys")))}
    assert browser.post(f"/keys/{key.pk if pk == 'bobs' else pk}/revoke", body).status_code == 404
    assert ApiKey.objects.get().revoked_at is None


def test_another_site_makes_none(browser):
    answer = browser.post("/keys", {"name": "notebook", "scopes": ["inference"]})
    assert answer.status_code == 403
    assert ApiKey.objects.count() == 0


def test_it_holds_no_inline_code_and_nothing_from_elsewhere(browser, alice):
    keys.make(alice, {"name": "notebook"})
    page = text(browser.get("/keys"))
    assert not re.search(r"<script(?! (type=.module. )?src=./static/)|<style|\sstyle=|\son\w+=|javascript:", page)
    assert all(link.startswith(("/", "#")) for link in re.findall(r'(?:src|href)="([^"]+)"', page))
