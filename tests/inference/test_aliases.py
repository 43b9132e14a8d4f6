"""Other names for models: made by admins, by API and admin pages, and sent by clients."""

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from inference.models import ModelAlias
from tests.inference.conftest import ready_engine

pytestmark = pytest.mark.django_db(transaction=True)
ALIASES = "/api/v1/aliases"


def test_an_admin_makes_changes_and_removes_one(client_of, root):
    api = client_of(root)
    made = api.post(ALIASES, {"name": "gpt-4o-mini", "targets": ["acme/tiny"]}, format="json")
    assert made.status_code == 201
    address = f"{ALIASES}/{made.json()['id']}"
    assert api.get(address).json() == made.json() == {**made.json(), "name": "gpt-4o-mini", "targets": ["acme/tiny"]}
    assert api.patch(address, {"targets": ["acme/a", "acme/b"]}, format="json").json()["targets"] == [
        "acme/a",
        "acme/b",
    ]
    assert [one["name"] for one in api.get(ALIASES).json()["results"]] == ["gpt-4o-mini"]
    assert api.delete(address).status_code == 204
    assert not ModelAlias.objects.exists()
    log = LogEntry.objects.order_by("pk").values_list("user__username", "object_repr", "change_message")
    assert [message.split(" ")[0] for _, _, message in log] == ["added", "changed", "removed"]
    assert {(who, what) for who, what, _ in log} == {("root", "gpt-4o-mini")}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": "", "targets": ["a"]}, "name"),
        ({"name": "a b", "targets": ["a"]}, "name"),
        ({"name": "-a", "targets": ["a"]}, "name"),
        ({"name": "a" * 201, "targets": ["a"]}, "name"),
        ({"name": "taken", "targets": ["a"]}, "name"),
        ({"name": "tiny-9", "targets": ["a"]}, "name"),
        ({"name": "new", "targets": []}, "targets"),
        ({"name": "new", "targets": "a"}, "targets"),
        ({"name": "new", "targets": ["a"] * 51}, "targets"),
        ({"name": "new", "targets": [1]}, "targets"),
        ({"name": "new", "targets": ["taken"]}, "targets"),
        ({"name": "new", "targets": ["a\x00b"]}, "targets"),
        ({"name": "new"}, "targets"),
    ],
)
def test_what_cannot_be_one_is_said(client_of, root, alice, given, field):
    ModelAlias.objects.create(name="taken", targets=["acme/tiny"])
    ready_engine(alice, port=9)
    answer = client_of(root).post(ALIASES, given, format="json")
    assert (answer.status_code, list(answer.json())) == (400, [field])
    assert ModelAlias.objects.count() == 1


class TestAdminPages:
    @pytest.fixture
    def browser(self, root):
        browser = Client()
        browser.force_login(root)
        return browser

    def test_the_names_stand_on_lines_of_their_own(self, browser):
        page = "/admin/inference/modelalias/"
        answer = browser.post(f"{page}add/", {"name": "default", "targets": "acme/a\r\n acme/b \r\n\r\n"})
        assert answer.status_code == 302
        alias = ModelAlias.objects.get()
        assert alias.targets == ["acme/a", "acme/b"]
        assert "acme/a\nacme/b</textarea>" in browser.get(f"{page}{alias.pk}/change/").content.decode()
        assert browser.post(f"{page}{alias.pk}/change/", {"name": "default", "targets": "acme/c"}).status_code == 302
        assert "acme/c" in browser.get(page).content.decode()
        chosen = {"action": "delete_selected", "_selected_action": [alias.pk], "post": "yes"}
        assert browser.post(page, chosen).status_code == 302
        assert not ModelAlias.objects.exists()

    def test_what_is_wrong_stands_beside_its_field(self, browser):
        page = browser.post("/admin/inference/modelalias/add/", {"name": "a b", "targets": "acme/a"})
        assert page.status_code == 200
        assert "beginning with a letter or digit" in page.content.decode()
        assert not ModelAlias.objects.exists()
