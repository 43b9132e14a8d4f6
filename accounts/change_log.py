"""What admins changed through the API, or on pages of no table; the admin's tables write the same log by themselves."""

from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model

from accounts.models import User

FLAGS = {"added": ADDITION, "changed": CHANGE, "removed": DELETION}
SECRET = frozenset({"password"})


def note(by: User, about: Model | str, did: str, way: str = "through the API", **changed: Any) -> None:
    """`about`: a row, or words for what has none. `did`: added, changed or removed. Of `changed` what is None was not
    changed; a password's value is not kept."""
    given = [name if name in SECRET else f"{name} = {value}" for name, value in changed.items() if value is not None]
    LogEntry.objects.create(
        user=by,
        content_type=ContentType.objects.get_for_model(about) if isinstance(about, Model) else None,
        object_id=about.pk if isinstance(about, Model) else None,
        object_repr=str(about)[:200],
        action_flag=FLAGS[did],
        change_message=f"{did} {way}{': ' if given else ''}{', '.join(given)}",
    )
