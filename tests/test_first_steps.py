"""The way of somebody new: the first steps of an admin, a password of one's own, and what a browser may run."""

import pytest
from django.test import Client

from engines.models import Engine
from engines.states import State
from vllm_portal import content_security


@pytest.fixture
def admin(root) -> Client:
    client = Client()
    client.force_login(root)
    return client


def text(answer) -> str:
    assert answer.status_code == 200
    return answer.content.decode()


def test_an_admin_of_a_new_portal_is_led_to_the_first_steps(admin, root, alice):
    assert "/welcome" in text(admin.get("/"))
    user = Client()
    user.force_login(alice)
    assert "/welcome" not in text(user.get("/"))
    assert user.get("/welcome").status_code == 404
    Engine.objects.create(owner=root, name="one", model="tiny", launcher="simulator", device="cpu")
    assert "/welcome" not in text(admin.get("/"))


def test_each_step_is_read_from_what_is_there(admin, root):
    page = text(admin.get("/welcome"))
    for said in ("You still log in with the password", "stand-in engines", "Start facebook/opt-125m"):
        assert said in page
    root.set_password("another horse")
    root.save()
    admin.force_login(root)
    engine = Engine.objects.create(owner=root, name="one", model="tiny", launcher="simulator", device="cpu")
    page = text(admin.get("/welcome"))
    assert "You still log in" not in page
    assert f"/engine/{engine.pk}" in page
    Engine.objects.update(state=State.READY, ready_at=engine.created_at)
    assert "add users" in text(admin.get("/welcome"))


def test_one_changes_ones_password_and_stays_logged_in(alice):
    client = Client()
    client.force_login(alice)
    order = {"old_password": "correct horse", "new_password1": "a longer horse", "new_password2": "a longer horse"}
    wrong = client.post("/password", {**order, "old_password": "guessed"})
    assert 'role="alert"' in text(wrong)
    answer = client.post("/password?next=/keys", order)
    assert (answer.status_code, answer["Location"]) == (302, "/keys")
    assert client.get("/keys").status_code == 200
    version = alice.token_version
    alice.refresh_from_db()
    assert alice.token_version == version + 1
    assert alice.check_password("a longer horse")


def test_a_change_of_password_leads_to_no_other_site(alice):
    client = Client()
    client.force_login(alice)
    order = {"old_password": "correct horse", "new_password1": "a longer horse", "new_password2": "a longer horse"}
    assert client.post("/password?next=https://elsewhere.example/", order)["Location"] == "/"


@pytest.mark.parametrize(
    "path", ["/", "/login", "/nothing", "/engine/new", "/healthz", "/cards", "/static/page.js", "/api/docs"]
)
def test_no_page_of_ours_may_run_inline_code(db, path):
    policy = Client().get(path)["Content-Security-Policy"]
    assert policy == content_security.STRICT
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize("path", ["/admin/login/", "/active_models/"])
def test_pages_of_packages_may_run_what_is_named_and_load_from_nowhere_else(db, path):
    policy = Client().get(path, HTTP_ACCEPT="text/html")["Content-Security-Policy"]
    assert policy in (content_security.ADMIN, content_security.API)
    assert "unsafe-inline" not in policy
    assert "http" not in policy


def test_json_needs_no_leniency(admin):
    assert admin.get("/active_models/")["Content-Security-Policy"] == content_security.STRICT


@pytest.mark.parametrize(
    ("cookie", "said"), [("dark", ' data-theme="dark"'), ("light", ' data-theme="light"'), ('"><b', "")]
)
def test_the_chosen_theme_is_in_the_page_that_is_sent(db, cookie, said):
    client = Client()
    client.cookies["theme"] = cookie
    assert f'<html lang="en"{said}>' in text(client.get("/"))


def test_the_first_page_is_small(admin):
    links = (
        "colours.css",
        "portal.css",
        "page.js",
        "icons.svg",
        "portal.svg",
        "django_htmx/htmx-2.min.js",
        "django_htmx/ext/hx-sse-2.min.js",
    )
    total = len(admin.get("/").content) + sum(len(admin.get(f"/static/{name}").content) for name in links)
    assert total < 150_000
