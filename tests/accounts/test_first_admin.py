"""The admin that the first start makes."""

import pytest

from accounts import first_admin
from accounts.first_admin import FirstAdmin, ensure_admin
from accounts.models import Role, User
from tests.threads import at_once
from vllm_portal.config import read_config
from vllm_portal.errors import OperatorError


@pytest.fixture
def configured(monkeypatch):
    """configured(**settings): what the settings say."""

    def make(**settings):
        monkeypatch.setattr(first_admin, "get_config", lambda: read_config(**settings))

    return make


@pytest.mark.django_db
def test_without_a_configured_password_a_random_one_is_shown_once():
    made = ensure_admin()

    assert made.username == "admin"
    assert len(made.password) >= 16
    user = User.objects.get()
    assert user.check_password(made.password)
    assert user.is_admin
    assert user.is_superuser
    assert ensure_admin() == FirstAdmin("admin")
    assert User.objects.count() == 1


@pytest.mark.django_db
def test_a_configured_password_is_used_and_not_shown(configured):
    configured(admin_username="chief", admin_password="correct horse")

    assert ensure_admin() == FirstAdmin("chief")
    assert User.objects.get(username="chief").check_password("correct horse")


@pytest.mark.django_db
def test_an_empty_password_counts_as_none(configured):
    configured(admin_password="")

    assert ensure_admin().password


@pytest.mark.django_db
def test_an_admin_who_is_there_keeps_name_and_password(root, configured):
    configured(admin_username="another", admin_password="another one")

    assert ensure_admin() == FirstAdmin("root")
    root.refresh_from_db()
    assert root.check_password("correct horse")


@pytest.mark.django_db
def test_a_user_is_not_turned_into_an_admin(alice, configured):
    User.objects.filter(role=Role.ADMIN).delete()
    configured(admin_username="alice")

    with pytest.raises(OperatorError, match="PORTAL_ADMIN_USERNAME"):
        ensure_admin()
    alice.refresh_from_db()
    assert not alice.is_admin


@pytest.mark.django_db(transaction=True)
def test_of_processes_that_start_at_once_one_makes_it():
    made = at_once(*[ensure_admin] * 4)

    assert {admin.username for admin in made} == {"admin"}
    assert len([admin for admin in made if admin.password]) == 1
    assert User.objects.count() == 1
