"""The admin that the first start makes, so that somebody can log in."""

import secrets
from typing import NamedTuple

from django.db import IntegrityError, transaction

from accounts.models import Role, User
from vllm_portal.config import get_config
from vllm_portal.errors import OperatorError


class FirstAdmin(NamedTuple):
    """`password` only where it was made up just now: it is kept nowhere in clear, so this is the time to show it."""

    username: str
    password: str | None = None


def ensure_admin() -> FirstAdmin:
    """Makes the configured admin where there is no admin at all. May run twice or in two processes at once.

    An admin who was renamed, or whose password changed, stays as is: the settings count for the first start only.
    Raises OperatorError where the configured name belongs to somebody who is no admin.
    """
    config = get_config()
    existing = User.objects.filter(role=Role.ADMIN).order_by("pk").values_list("username", flat=True)
    if name := existing.first():
        return FirstAdmin(name)
    given = config.admin_password.get_secret_value() if config.admin_password else ""
    password = given or secrets.token_urlsafe(12)
    try:
        with transaction.atomic():
            User.objects.create_user(config.admin_username, password=password, role=Role.ADMIN)
    except IntegrityError:
        if name := existing.first():  # another process was faster
            return FirstAdmin(name)
        raise OperatorError(
            f"there is no admin, and {config.admin_username} is a user without that role: "
            "set PORTAL_ADMIN_USERNAME to another name"
        ) from None
    return FirstAdmin(config.admin_username, None if given else password)
