"""The pages: the first one, login and logout, the API's documentation, the browsable API, the records in the admin."""

import re
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client
from django.views.defaults import server_error

from accounts import quotas
from engines import cards, lifecycle
from inference import conversations
from inference.models import Conversation, UsageRecord
from tests.accounts.conftest import NOW
from vllm_portal.templatetags.sizes import size

PASSWORD = "correct horse"


@pytest.fixture
def browser() -> Client:
    return Client(enforce_csrf_checks=True)


def log_in(browser: Client, username: str, password: str = PASSWORD, follow_to: str = ""):
    page = browser.get("/login", {"next": follow_to})
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.content.decode())[1]
    body = {"username": username, "password": password, "next": follow_to, "csrfmiddlewaretoken": token}
    return browser.post("/login", body)


def text(answer) -> str:
    assert answer.status_code == 200
    return answer.content.decode()


# The first page


def test_home_says_where_everything_is(browser, db):
    page = text(browser.get("/"))
    for address in ("/admin/", "/api/docs", "/active_models", "/login", "http://testserver/token"):
        assert address in page
    assert "Your engines" not in page


def test_home_shows_ones_own_engines_and_tokens(browser, alice, bob):
    for owner, name in ((alice, "alices-engine"), (bob, "bobs-engine")):
        lifecycle.request_start(owner, NOW, model="tiny", name=name, launcher="process", device="cpu")
    quotas.set_numbers(alice, prompt=1234)
    log_in(browser, "alice")
    page = text(browser.get("/"))
    assert "alices-engine" in page
    assert "bobs-engine" not in page
    assert "engine-QUEUED" in page
    assert "1,234" in page


def test_home_says_why_an_engine_failed(browser, alice):
    engine = lifecycle.request_start(alice, NOW, model="tiny", name="one", launcher="process", device="cpu")
    type(engine).objects.filter(pk=engine.pk).update(cause="<b>No memory.</b>", advice="Use a smaller model.")
    log_in(browser, "alice")
    page = text(browser.get("/"))
    assert "&lt;b&gt;No memory.&lt;/b&gt; Use a smaller model." in page


def test_home_shows_the_latest_of_many_engines(browser, alice):
    from engines.models import Engine

    Engine.objects.bulk_create(
        Engine(owner=alice, name=f"engine-{n}", model="tiny", launcher="process", device="cpu") for n in range(63)
    )
    log_in(browser, "alice")
    page = text(browser.get("/"))
    assert page.count('class="card"') == cards.MOST_SHOWN
    assert f"and {63 - cards.MOST_SHOWN} more" in page


def test_a_strange_host_is_no_server_error(browser, db):
    assert browser.get("/", HTTP_HOST='x"><script>').status_code == 400


@pytest.mark.parametrize("path", ["/", "/login"])
def test_our_pages_hold_no_inline_code_and_nothing_from_elsewhere(browser, db, path):
    page = text(browser.get(path))
    assert not re.search(r"<script(?! type=.module. src=./static/)|<style|\sstyle=|\son\w+=|javascript:", page)
    assert all(link.startswith(("/", "#")) for link in re.findall(r'(?:src|href)="([^"]+)"', page))


# Login


@pytest.mark.parametrize("path", ["/login", "/login/"])
def test_login_leads_back_to_where_one_wanted_to_go(browser, alice, path):
    assert browser.get(path).status_code == 200
    answer = log_in(browser, "alice", follow_to="/active_models/")
    assert (answer.status_code, answer["Location"]) == (302, "/active_models/")


def test_login_leads_to_no_other_site(browser, alice):
    assert log_in(browser, "alice", follow_to="https://elsewhere.example/")["Location"] == "/"


def test_a_refused_login_says_so(browser, alice):
    alice.is_active = False
    alice.save()
    for name in ("alice", "nobody"):
        answer = log_in(browser, name)
        assert 'role="alert"' in text(answer)
        assert "sessionid" not in browser.cookies


def test_login_from_another_site_is_refused(browser, alice):
    assert browser.post("/login", {"username": "alice", "password": PASSWORD}).status_code == 403


def test_logout_is_a_post(browser, alice):
    log_in(browser, "alice")
    page = text(browser.get("/"))
    assert browser.get("/logout").status_code == 405
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
    assert browser.post("/logout", {"csrfmiddlewaretoken": token}).status_code == 302
    assert "Log in" in text(browser.get("/"))


def test_a_disabled_users_session_ends(browser, alice):
    log_in(browser, "alice")
    alice.is_active = False
    alice.save()
    assert "Log in" in text(browser.get("/"))


# The API's documentation, with what it needs, and the browsable API


@pytest.mark.parametrize("path", ["/api/docs", "/api/docs/"])
def test_the_docs_work_without_the_internet(browser, db, path):
    page = text(browser.get(path))
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len([link for link in links if link.startswith("/static/drf_spectacular_sidecar/")]) >= 3
    for link in links:
        assert browser.get(link).status_code == 200, link


@pytest.mark.parametrize("path", ["/api/schema", "/api/schema/"])
def test_the_schema_names_the_endpoints_and_the_token(browser, db, path):
    schema = text(browser.get(path))
    assert "/db_request/add_user/" in schema
    assert "scheme: bearer" in schema


def test_the_schema_is_complete_and_valid(tmp_path):
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "schema.yaml"))


def test_the_browsable_api_offers_login_and_works_with_it(browser, alice):
    page = browser.get("/db_request/get_token_info/", HTTP_ACCEPT="text/html")
    assert page.status_code == 401
    assert b"/login?next=/db_request/get_token_info/" in page.content
    log_in(browser, "alice")
    page = browser.get("/db_request/get_token_info/", HTTP_ACCEPT="text/html").content.decode()
    for link in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        assert browser.get(link).status_code == 200, link
    assert "/logout" in page
    token = re.search(r'"csrfToken": "([^"]+)"', page)[1]
    ask = {"path": "/db_request/get_token_info/", "data": "{}", "content_type": "application/json"}
    assert browser.post(**ask).status_code == 403
    answer = browser.post(**ask, HTTP_X_CSRFTOKEN=token, HTTP_ACCEPT="text/html")
    assert "prompt_token_number" in text(answer)


# Static files


def test_a_static_file_is_cached_by_the_browser(browser):
    answer = browser.get("/static/portal.css")
    assert answer["Content-Type"] == "text/css; charset=utf-8"
    assert "max-age" in answer["Cache-Control"]
    assert browser.get("/static/portal.css", HTTP_IF_MODIFIED_SINCE=answer["Last-Modified"]).status_code == 304
    assert answer.content.decode() == Path(finders.find("portal.css")).read_text()


@pytest.mark.parametrize(
    "path",
    [
        "nothing.css", "admin", "", "a%00b", "x" * 5000, "/etc/passwd",
        "../settings.py", "%2e%2e/settings.py", "admin/../../models.py",
    ],
)  # fmt: skip
def test_only_static_files_are_served(browser, path):
    assert browser.get(f"/static/{path}").status_code == 404


def test_static_files_are_only_read(browser):
    assert Client().post("/static/portal.css").status_code == 405


# Records in the admin


@pytest.fixture
def records(alice):
    talk = conversations.start(alice, NOW, "Trees")
    conversations.add_turn(talk, "secret prompt", "secret answer", NOW)
    record = UsageRecord.objects.create(
        request_id="r1", user=alice, model="tiny", path="/v1/completions", prompt_tokens=11, generated_tokens=22,
        exact=True, outcome="completed", started_at=NOW - timedelta(hours=1), duration_ms=5,
    )  # fmt: skip
    return {"conversation": talk, "usagerecord": record}


@pytest.mark.parametrize("name", ["conversation", "usagerecord"])
def test_records_can_be_seen_and_not_touched(root, records, name):
    client = Client()
    client.force_login(root)
    base, pk = f"/admin/inference/{name}/", records[name].pk
    listed, one = text(client.get(base)), text(client.get(f"{base}{pk}/change/"))
    for page in (listed, one):
        assert "alice" in page
        assert "secret" not in page
    assert 'name="_save"' not in one
    assert client.get(base, {"q": "alice"}).status_code == 200
    assert client.get(f"{base}add/").status_code == 403
    assert client.post(f"{base}{pk}/change/", {"name": "x"}).status_code == 403
    assert client.post(f"{base}{pk}/delete/", {"post": "yes"}).status_code == 403
    client.post(base, {"action": "delete_selected", "_selected_action": [pk], "post": "yes"})
    assert (Conversation.objects.count(), UsageRecord.objects.count()) == (1, 1)


def test_what_was_said_has_no_page(root, records):
    client = Client()
    client.force_login(root)
    assert client.get("/admin/inference/message/").status_code == 404


def test_records_are_not_for_users(alice, records):
    client = Client()
    client.force_login(alice)
    assert client.get("/admin/inference/usagerecord/").status_code == 302


# What goes wrong


def test_an_address_that_there_is_not_leads_on(browser, alice):
    log_in(browser, "alice")
    for path, said in (
        ("/nothing", "No page has this address."),
        (f"/engine/{uuid.uuid4()}", "There is no such engine among yours."),
    ):
        answer = browser.get(path)
        assert answer.status_code == 404
        assert said in answer.content.decode()
        assert 'href="/usage"' in answer.content.decode()


def test_a_form_of_before_the_login_says_what_to_do(browser, alice):
    log_in(browser, "alice")
    answer = browser.post("/logout", {"csrfmiddlewaretoken": "x" * 64})
    assert answer.status_code == 403
    assert "load the page again" in answer.content.decode()


def test_a_failure_tells_no_cause_and_where_it_stands(rf):
    answer = server_error(rf.get("/"))
    assert answer.status_code == 500
    assert "log" in answer.content.decode()


@pytest.mark.parametrize(
    ("count", "said"),
    [(None, ""), (0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (2**30 * 80, "80.0 GiB"), (2**50, "1024.0 TiB")],
)
def test_sizes_are_in_the_units_of_drivers(count, said):
    assert size(count) == said
