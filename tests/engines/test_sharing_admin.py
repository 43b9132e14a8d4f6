"""An engine's admin page says whom it is shared with, and an admin changes it there."""

import pytest
from django.contrib.auth.models import Group

from engines.models import Engine
from engines.states import State
from tests.accounts.test_admin import admin, fields_of

__all__ = ["admin"]


@pytest.fixture
def told(monkeypatch):
    """What other processes were told."""
    heard = []
    monkeypatch.setattr("engines.sharing.announce", heard.append)
    return heard


def page(engine: Engine) -> str:
    return f"/admin/engines/engine/{engine.pk}/change/"


def form_of(admin, engine: Engine) -> dict:
    return fields_of(admin, page(engine), "engine_form")


def sharing(engine: Engine) -> tuple[bool, list[str], list[str]]:
    engine = Engine.objects.get(pk=engine.pk)
    return (
        engine.shared,
        list(engine.shared_users.values_list("username", flat=True)),
        list(engine.shared_groups.values_list("name", flat=True)),
    )


def test_an_admin_shares_an_engine_and_ends_it(admin, bob, engine_in, told, django_capture_on_commit_callbacks):
    engine, group = engine_in(State.READY), Group.objects.create(name="nlp")
    for given, seen in (
        ({"shared_users": [bob.pk], "shared_groups": [group.pk]}, (False, ["bob"], ["nlp"])),
        ({"shared_users": [], "shared": "on"}, (True, [], ["nlp"])),
    ):
        with django_capture_on_commit_callbacks(execute=True):
            assert admin.post(page(engine), {**form_of(admin, engine), **given}).status_code == 302
        assert sharing(engine) == seen
    assert told == ["engines"] * 2


def test_an_old_page_gives_nobody_back_what_was_taken_away(admin, bob, engine_in):
    engine = engine_in(State.READY, shared=True)
    engine.shared_users.add(bob)
    form, group = form_of(admin, engine), Group.objects.create(name="nlp")
    Engine.objects.filter(pk=engine.pk).update(shared=False)
    engine.shared_users.clear()
    assert admin.post(page(engine), {**form, "shared_groups": [group.pk]}).status_code == 302
    assert sharing(engine) == (False, [], ["nlp"])


def test_nothing_else_of_the_row_is_written(admin, engine_in):
    """The life cycle may have moved on since the page was loaded."""
    engine = engine_in(State.READY)
    form = form_of(admin, engine)
    Engine.objects.filter(pk=engine.pk).update(missed_checks=2)
    assert admin.post(page(engine), {**form, "shared": "on", "missed_checks": 0, "name": "other"}).status_code == 302
    now = Engine.objects.get(pk=engine.pk)
    assert (now.missed_checks, now.name, now.shared) == (2, engine.name, True)
