"""POST /playground/token: an access token for the page's script."""

import re

import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts import browser_token
from accounts.auth import user_of, verify
from accounts.errors import NotAuthenticated
from accounts.models import LoginSession

PATH = "/playground/token"


@pytest.fixture
def browser(alice) -> Client:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    return client


@pytest.fixture
def ask(browser):
    """ask(): a token's answer, as the page asks for it."""
    page = browser.get("/playground").content.decode()
    csrf = re.search(r'data-playground.*?name="csrfmiddlewaretoken" value="([^"]+)"', page, re.DOTALL)[1]
    return lambda: browser.post(PATH, HTTP_X_CSRFTOKEN=csrf)


def test_it_counts_for_ten_minutes_and_for_who_is_logged_in(ask, alice):
    answer = ask()
    given = answer.json()
    claims = verify(given["access_token"])
    assert user_of(given["access_token"]) == alice
    assert given["expires_in"] == 600
    assert claims.expires_at <= LoginSession.objects.get().expires_at.timestamp() + 1
    assert "no-store" in answer["Cache-Control"]
    page = APIClient().get("/api/v1/key", HTTP_AUTHORIZATION=f"Bearer {given['access_token']}")
    assert page.json()["username"] == "alice"


def test_another_site_gets_none(browser):
    assert browser.post(PATH).status_code == 403
    assert browser.get(PATH).status_code == 405
    assert not LoginSession.objects.exists()


def test_without_a_session_there_is_none(db, alice, client_of):
    assert Client().post(PATH).status_code == 401
    # Whoever has a token needs no other; that of a key would be worth more than the key.
    assert client_of(alice).post(PATH).status_code == 401


def test_a_disabled_user_gets_none(ask, alice):
    token = ask().json()["access_token"]
    alice.is_active = False
    alice.save()
    assert ask().status_code == 401
    with pytest.raises(NotAuthenticated):
        user_of(token)


def test_a_browser_has_one_log_in_however_often_it_asks(ask):
    first, second = ask().json()["access_token"], ask().json()["access_token"]
    assert verify(first).session == verify(second).session
    assert LoginSession.objects.count() == 1


def test_a_log_in_that_was_ended_is_replaced(ask):
    from accounts import sessions

    sessions.end(verify(ask().json()["access_token"]).session)
    assert user_of(ask().json()["access_token"])
    assert LoginSession.objects.filter(ended_at=None).count() == 1


@pytest.mark.parametrize("path", ["/logout", "/admin/logout/"])
def test_after_the_logout_it_counts_no_more(root, path):
    client = Client()
    client.force_login(root)
    token = client.post(PATH).json()["access_token"]
    assert user_of(token) == root
    assert client.post(path).status_code in (200, 302)
    with pytest.raises(NotAuthenticated):
        user_of(token)


def test_a_log_out_without_a_token_is_one(client, alice):
    client.force_login(alice)
    assert client.post("/logout").status_code == 302


def test_it_is_no_refresh_token(ask):
    token = ask().json()["access_token"]
    assert APIClient().post("/token/refresh", {"refresh_token": token}, format="json").status_code == 401


def test_its_lifetime_is_short():
    assert browser_token.LIFETIME.total_seconds() <= 900


def test_the_page_is_for_who_is_logged_in(db):
    answer = Client().get("/playground")
    assert (answer.status_code, answer["Location"]) == (302, "/login/?next=/playground")


def test_the_page_holds_no_inline_code_and_nothing_from_elsewhere(browser):
    page = browser.get("/playground").content.decode()
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert set(scripts) == {""}
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert all(link.startswith(("/", "#")) for link in re.findall(r'(?:src|href)="([^"]+)"', page))


def test_an_engines_name_is_text(browser, alice):
    from engines.models import Engine

    Engine.objects.create(owner=alice, name="e", model='"><script>x', launcher="docker", device="cuda", state="READY")
    assert "<script>x" not in browser.get("/playground?engine=%22%3E%3Cscript%3E").content.decode()
