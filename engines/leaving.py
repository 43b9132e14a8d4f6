"""Users who leave: disabled at once, removed when the last of their engines has ended.

    remove ── Leaving row, user disabled ── engines asked to end ── ended ── user deleted
                                                   └ not yet: `finish`, from beat, goes on from the row

Usage records and published recipes stay without a user; conversations, keys and other recipes go with the user.
"""

import time
from datetime import datetime

from django.db import transaction

from accounts import change_log
from accounts.errors import NotYourself
from accounts.models import Role, User
from engines import terminating
from engines.models import Engine, Leaving
from engines.recipe_models import Recipe
from engines.waiting import release_database
from vllm_portal.errors import CallerError

LOOK_S = 0.1


def remove(user: User, by: User, now: datetime, wait_s: float) -> bool:
    """Waits for the engines' end for `wait_s` at most. False: they are still ending, and the user is removed after
    that. Raises NotYourself, CallerError for the last admin."""
    if user.pk == by.pk:
        raise NotYourself("You cannot remove yourself; another admin can.")
    with transaction.atomic():
        admins = User.objects.select_for_update().filter(role=Role.ADMIN, is_active=True).order_by("pk")
        if user.is_admin and {admin.pk for admin in admins} <= {user.pk}:
            raise CallerError("This is the last admin; make another one first.")
        _, first = Leaving.objects.get_or_create(user=user, defaults={"asked_at": now})
        if first:
            change_log.note(by, user, "removed")
        user.is_active = False
        user.save(update_fields=["is_active"])
    deadline = time.monotonic() + wait_s
    while not _leave(user, by):
        if time.monotonic() > deadline:
            return False
        release_database()
        time.sleep(LOOK_S)
    return True


def finish() -> int:
    """Goes on with everybody who leaves; how many are gone now."""
    return sum(_leave(row.user, row.user) for row in Leaving.objects.select_related("user"))


def _leave(user: User, by: User) -> bool:
    """Whether the user is gone. An engine that was started a moment before they were disabled is asked to end, too."""
    engines = list(Engine.objects.active().filter(owner=user))
    for engine in engines:
        terminating.request_terminate(engine, by)
    if engines:
        return False
    Recipe.objects.filter(owner=user, published=False).delete()
    user.delete()
    return True
