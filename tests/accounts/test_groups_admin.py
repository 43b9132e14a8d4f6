"""Groups in the admin pages: made there, and joined and left on a user's page."""

import pytest
from django.contrib.auth.models import Group

from tests.accounts.test_admin import admin, form_of, save

__all__ = ["admin"]
GROUPS = "/admin/auth/group/"


@pytest.fixture
def told(monkeypatch):
    """What other processes were told."""
    heard = []
    monkeypatch.setattr("accounts.groups_admin.announce", heard.append)
    return heard


def test_a_group_is_made_joined_left_and_removed(admin, alice, told, django_capture_on_commit_callbacks):
    inline = {"priority-TOTAL_FORMS": "1", "priority-INITIAL_FORMS": "0", "priority-0-value": "5"}
    assert admin.post(f"{GROUPS}add/", {"name": "nlp", **inline}).status_code == 302
    group = Group.objects.get(name="nlp")
    assert group.priority.value == 5
    for chosen in ([group.pk], []):
        with django_capture_on_commit_callbacks(execute=True):
            save(admin, alice, form_of(admin, alice), groups=chosen)
        assert [each.pk for each in alice.groups.all()] == chosen
        assert ("Nobody yet" in admin.get(f"{GROUPS}{group.pk}/change/").content.decode()) != bool(chosen)
    assert told == ["engines"] * 2
    with django_capture_on_commit_callbacks(execute=True):
        chosen = {"action": "delete_selected", "_selected_action": [group.pk], "post": "yes"}
        assert admin.post(GROUPS, chosen).status_code == 302
    assert told == ["engines"] * 3
    assert not Group.objects.exists()


def test_a_page_that_is_an_hour_old_brings_nobody_back(admin, alice):
    group = Group.objects.create(name="nlp")
    alice.groups.add(group)
    form = form_of(admin, alice)
    assert (form["groups"], form["initial-groups"]) == ([str(group.pk)], str(group.pk))
    alice.groups.clear()
    save(admin, alice, form, first_name="Alice")
    assert not alice.groups.exists()
