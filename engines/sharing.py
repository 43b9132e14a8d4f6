"""Who may send requests to an engine besides its owner and admins: nobody, named users, the members of named groups, or
everybody (`shared`). Whoever may end an engine may change it; that counts from the next request on."""

import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import partial

from django.contrib.auth.models import Group
from django.db import transaction

from accounts.models import User
from engines.models import Engine
from vllm_portal.changes import announce
from vllm_portal.errors import FieldError


def users_named(names: Collection[str]) -> list[User]:
    """Raises FieldError that names the first whom there is not."""
    found = {user.username: user for user in User.objects.filter(username__in=names)}
    for name in names:
        if name not in found:
            raise FieldError("shared_users", f"There is no user {name[:150]}.")
    return list(found.values())


def groups_named(names: Collection[str]) -> list[Group]:
    """Raises FieldError likewise."""
    found = {group.name: group for group in Group.objects.filter(name__in=names)}
    for name in names:
        if name not in found:
            raise FieldError("shared_groups", f"There is no group {name[:150]}; an admin makes them.")
    return list(found.values())


def change(
    engine: Engine,
    *,
    shared: bool | None = None,
    shared_users: Collection[str] | None = None,
    shared_groups: Collection[str] | None = None,
) -> None:
    """None leaves it; the names given take the place of those before. Raises FieldError, and then changes nothing."""
    users = None if shared_users is None else users_named(shared_users)
    groups = None if shared_groups is None else groups_named(shared_groups)
    put(engine, shared, users, groups)


def put(
    engine: Engine,
    shared: bool | None = None,
    users: Collection[User] | None = None,
    groups: Collection[Group] | None = None,
) -> None:
    """As `change`, with the rows."""
    with transaction.atomic():
        if shared is not None:
            Engine.objects.filter(pk=engine.pk).update(shared=shared)
            engine.shared = shared
        if users is not None:
            engine.shared_users.set(users)
        if groups is not None:
            engine.shared_groups.set(groups)
        tell()


def tell() -> None:
    """The data plane, after the commit: who may use which engine has changed."""
    transaction.on_commit(partial(announce, "engines"))


def names(engine: Engine) -> dict[str, list[str]]:
    """As a start takes them."""
    return {
        "shared_users": sorted(user.username for user in engine.shared_users.all()),
        "shared_groups": sorted(group.name for group in engine.shared_groups.all()),
    }


def user_ids(engines: Sequence[uuid.UUID]) -> dict[uuid.UUID, set[int]]:
    """Whom each is shared with by name or by a group, as ids. Two queries."""
    ids: defaultdict[uuid.UUID, set[int]] = defaultdict(set)
    direct = Engine.shared_users.through.objects.filter(engine__in=engines).values_list("engine", "user")
    members = Engine.shared_groups.through.objects.filter(engine__in=engines, group__user__isnull=False)
    for engine_id, user_id in [*direct, *members.values_list("engine", "group__user")]:
        ids[engine_id].add(user_id)
    return ids
