"""What a list of the admin pages asks the database, and whom its search finds."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from unfold.admin import checkbox

from accounts.admin import PeopleAdmin
from accounts.models import ApiKey, User
from accounts.tables import counted
from tests.accounts.conftest import NOW

KEYS = "/admin/accounts/apikey/"


@pytest.mark.parametrize(("number", "said"), [(0, "no engines"), (1, "1 engine"), (2, "2 engines")])
def test_what_was_done_is_said_with_its_number(number, said):
    assert counted(number, "engine") == said


@pytest.fixture
def admin(root) -> Client:
    client = Client()
    client.force_login(root)
    return client


@pytest.fixture
def keys(alice, bob) -> None:
    for user, name in ((alice, "notebook"), (alice, "script"), (bob, "notebook of bob")):
        ApiKey.objects.create(
            user=user, name=name, digest=name, prefix="sk-1", last_four="wxyz", scopes=[], created_at=NOW
        )


def listed(client: Client, path: str, term: str) -> list[str]:
    return [str(row) for row in client.get(path, {"q": term}).context["cl"].result_list]


def test_each_word_is_in_a_field_or_in_the_persons_name(admin, keys):
    assert {name.split(" (")[0] for name in listed(admin, KEYS, "alice")} == {"notebook", "script"}
    assert [name.split(" (")[0] for name in listed(admin, KEYS, "alice NOTE")] == ["notebook"]
    assert [name.split(" (")[0] for name in listed(admin, KEYS, '"k of b"')] == ["notebook of bob"]
    assert listed(admin, KEYS, "nobody") == []


@pytest.mark.parametrize(
    ("path", "term"), [(KEYS, "note"), ("/admin/accounts/user/", "ali"), ("/admin/auth/group/", "x")]
)
def test_a_table_is_searched_once_to_be_counted_and_listed(admin, keys, path, term):
    admin.get(path)
    with CaptureQueriesContext(connection) as seen:
        assert admin.get(path, {"q": term}).status_code == 200
    table = {"apikey": '"accounts_apikey"', "user": '"accounts_user"', "group": '"auth_group"'}[path.split("/")[3]]
    searches = [one["sql"] for one in seen if f"FROM {table}" in one["sql"] and "LIKE" in one["sql"]]
    assert len([sql for sql in searches if f"%{term}%" in sql.lower()]) == 1


def test_a_search_tells_how_many_there_are_and_pages_through_them(admin, root):
    User.objects.bulk_create(User(username=f"student-{number:03}") for number in range(320))
    for user in User.objects.filter(token_limit=None):
        user.save()
    found = admin.get("/admin/accounts/user/", {"q": "student", "p": "2"}).context["cl"]
    assert (found.result_count, len(found.result_list)) == (320, 15)
    assert str(found.result_list[0]) == "student-015"
    found = admin.get("/admin/accounts/user/", {"q": "student-01"}).context["cl"]
    assert (found.result_count, str(found.result_list[0])) == (10, "student-010")


def test_the_box_of_a_row_is_the_one_of_the_widget(admin, alice):
    page = PeopleAdmin(User, None)
    assert page.action_checkbox(alice) == checkbox.render("_selected_action", str(alice.pk))


def test_the_search_over_everything_speaks_of_api_keys(admin, keys):
    page = admin.get("/admin/search/", {"s": "notebook", "extended": "1"}).content.decode()
    assert "API key" in page
    assert "Api key" not in page
