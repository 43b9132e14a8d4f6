"""More names for models and engines in requests. An alias is an admin's: who could name one after a model that others
use would be sent their prompts."""

import re
from functools import partial

from django.db import IntegrityError, transaction

from engines.models import Engine
from inference.models import ModelAlias
from vllm_portal.changes import announce
from vllm_portal.errors import FieldError

MOST_TARGETS = 50
_TAKEN = "There is an alias of this name already."
_NAME = re.compile(r"[A-Za-z0-9][\w./:@+-]{0,199}\Z", re.ASCII)


def save(alias: ModelAlias) -> None:
    """Adds or changes it. Counts from the next request on. Raises FieldError."""
    check(alias)
    try:
        with transaction.atomic():
            alias.save()
            tell()
    except IntegrityError:  # of two at once
        raise FieldError("name", _TAKEN) from None


def remove(alias: ModelAlias) -> None:
    alias.delete()
    tell()


def tell() -> None:
    transaction.on_commit(partial(announce, "engines"))


def check(alias: ModelAlias) -> None:
    """Raises FieldError."""
    if not _NAME.match(alias.name):
        raise FieldError("name", "Use letters, digits and . _ / : @ + -, up to 200, beginning with a letter or digit.")
    if ModelAlias.objects.filter(name=alias.name).exclude(pk=alias.pk).exists():
        raise FieldError("name", _TAKEN)
    if Engine.objects.active().filter(name=alias.name).exists():
        raise FieldError("name", "This is the name of an engine that runs.")
    _check_targets(alias)


def _check_targets(alias: ModelAlias) -> None:
    targets = alias.targets
    if not isinstance(targets, list) or not 0 < len(targets) <= MOST_TARGETS or not all(map(_is_name, targets)):
        raise FieldError("targets", f'Give 1 to {MOST_TARGETS} names of models or engines, such as ["acme/tiny"].')
    others = ModelAlias.objects.filter(name__in=targets).exclude(pk=alias.pk).values_list("name", flat=True)
    if other := others.first():
        raise FieldError("targets", f"{other} is an alias itself; name what it stands for.")


def _is_name(target: object) -> bool:
    return isinstance(target, str) and 0 < len(target) <= 300 and target.isprintable()
