"""Whom an engine is shared with: named at the start, changed later, by API and page, and seen by whom it concerns."""

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from engines import retrying, starting
from engines.models import Engine
from engines.preflight import Order
from engines.states import State

pytestmark = pytest.mark.django_db(transaction=True)
ENGINES = "/api/v1/engines"


@pytest.fixture
def nlp(bob):
    group = Group.objects.create(name="nlp")
    bob.groups.add(group)
    return group


def seen(client) -> list[str]:
    return sorted(engine["name"] for engine in client.get(ENGINES).json()["results"])


def test_a_start_names_whom_it_is_shared_with(client_of, alice, bob, nlp, fake):
    body = {"model": "acme/tiny", "shared_users": ["bob", "bob"], "shared_groups": ["nlp"]}
    answer = client_of(alice).post(ENGINES, body, format="json").json()
    assert (answer["shared"], answer["shared_users"], answer["shared_groups"]) == (False, ["bob"], ["nlp"])
    assert seen(client_of(bob)) == [answer["name"]]
    assert client_of(bob).get(f"{ENGINES}/{answer['id']}").json()["shared_users"] is None


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"shared_users": ["nobody"]}, "shared_users"),
        ({"shared_groups": ["none"]}, "shared_groups"),
        ({"shared_users": "bob"}, "shared_users"),
        ({"shared_users": [7]}, "shared_users"),
        ({"shared_users": ["b" * 151]}, "shared_users"),
        ({"shared_groups": None}, "shared_groups"),
    ],
)
def test_whom_there_is_not_is_said_and_nothing_changes(client_of, alice, bob, nlp, engine_in, given, field):
    engine = engine_in(State.READY)
    api = client_of(alice)
    before = {"shared_users": ["bob"], "shared_groups": ["nlp"]}
    assert api.patch(f"{ENGINES}/{engine.pk}", before, format="json").status_code == 200
    answer = api.patch(f"{ENGINES}/{engine.pk}", {"shared": True, **given}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, [field])
    now = api.get(f"{ENGINES}/{engine.pk}").json()
    assert {name: now[name] for name in ("shared", *before)} == {"shared": False, **before}
    started = api.post(ENGINES, {"model": "acme/tiny", **given}, format="json")
    assert (started.status_code, list(started.json())) == (400, [field])
    assert Engine.objects.count() == 1


def test_it_is_given_and_taken_away(client_of, alice, bob, nlp, engine_in):
    engine = engine_in(State.READY)
    api, his = client_of(alice), client_of(bob)
    shared = [{"shared_users": ["bob"]}, {"shared_users": [], "shared_groups": ["nlp"]}, {"shared": True}]
    for given in shared:
        assert seen(his) == ([] if given is shared[0] else [engine.name])
        assert api.patch(f"{ENGINES}/{engine.pk}", given, format="json").status_code == 200
        assert seen(his) == [engine.name]
    api.patch(f"{ENGINES}/{engine.pk}", {"shared": False, "shared_groups": []}, format="json")
    assert seen(his) == []


def test_who_may_use_it_may_not_share_it(client_of, alice, bob, engine_in):
    engine = engine_in(State.READY, shared=True)
    assert client_of(bob).patch(f"{ENGINES}/{engine.pk}", {"shared": False}, format="json").status_code == 404


def test_who_leaves_a_group_leaves_its_engines(client_of, alice, bob, nlp, engine_in):
    engine = engine_in(State.READY)
    engine.shared_groups.add(nlp)
    assert seen(client_of(bob)) == [engine.name]
    bob.groups.remove(nlp)
    assert seen(client_of(bob)) == []


def test_starting_again_shares_it_with_the_same(alice, bob, nlp, engine_in, fake):
    engine = starting.start(alice, Order(model="acme/tiny", shared_users=("bob",), shared_groups=("nlp",)))
    again = starting.start_again(engine, alice)
    assert [user.username for user in again.shared_users.all()] == ["bob"]
    assert list(again.shared_groups.all()) == [nlp]
    assert retrying.form(engine, {})["shared_users"] == ["bob"]


class TestPage:
    def test_the_owner_shares_it_by_a_form(self, alice, bob, nlp, engine_in):
        engine = engine_in(State.READY)
        browser = Client()
        browser.force_login(alice)
        given = {"shared_users": "bob, ", "shared_groups": "nlp\n"}
        page = browser.post(f"/engine/{engine.pk}/share", given, follow=True).content.decode()
        assert f"Saved who may send requests to {engine.name}" in page
        assert 'value="bob"' in page
        assert "shared with bob, nlp" in page
        assert [user.username for user in engine.shared_users.all()] == ["bob"]
        page = browser.post(f"/engine/{engine.pk}/share", {"shared_users": "nobody"}, follow=True).content.decode()
        assert "There is no user nobody." in page
        assert [user.username for user in engine.shared_users.all()] == ["bob"]
        browser.post(f"/engine/{engine.pk}/share", {"shared": "true"})
        engine.refresh_from_db()
        assert (engine.shared, engine.shared_users.count()) == (True, 0)

    def test_who_is_named_sees_the_engine_and_not_the_others(self, alice, bob, people, nlp, engine_in):
        engine = engine_in(State.READY)
        engine.shared_users.add(bob, alice)
        browser = Client()
        browser.force_login(bob)
        page = browser.get("/").content.decode()
        assert "shared with you" in page
        assert "shared with alice" not in page
        assert browser.post(f"/engine/{engine.pk}/share", {}).status_code == 404
