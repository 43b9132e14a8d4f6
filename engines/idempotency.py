"""A start that is sent again because its answer was lost must not be a second engine: `Idempotency-Key`."""

import hashlib
import json
import re
from dataclasses import asdict
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.models import User
from engines import starting
from engines.models import Engine, StartKey
from engines.preflight import Order
from vllm_portal.errors import CallerError, FieldError

KEPT = timedelta(hours=24)
_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")


class OtherBody(CallerError):
    """The key has been used for something else; 422."""


def start_once(owner: User, order: Order, key: str) -> tuple[Engine, bool]:
    """(engine, whether an earlier request had started it). Of two at once, one starts and the other gets its engine.
    Raises OtherBody, and as `starting.start`."""
    if not _KEY.match(key):
        raise FieldError("Idempotency-Key", "Use 1 to 255 printable ASCII characters without spaces.")
    digest = hashlib.sha256(json.dumps(asdict(order), sort_keys=True).encode()).hexdigest()
    if known := _known(owner, key, digest):
        return known, True

    def remember(engine: Engine) -> None:
        StartKey.objects.filter(user=owner, key=key, created_at__lte=timezone.now() - KEPT).delete()
        StartKey.objects.create(user=owner, key=key, body_digest=digest, engine=engine, created_at=timezone.now())

    try:
        with transaction.atomic():
            return starting.start(owner, order, remember), False
    except IntegrityError:
        known = _known(owner, key, digest)
        if known is None:
            raise
        return known, True


def _known(owner: User, key: str, digest: str) -> Engine | None:
    row = StartKey.objects.select_related("engine").filter(user=owner, key=key).first()
    if row is None or row.created_at <= timezone.now() - KEPT:
        return None
    if row.body_digest != digest:
        raise OtherBody("This Idempotency-Key was used for another start; use a new one.")
    return row.engine


def forget_old(now: datetime) -> int:
    """How many keys have become free."""
    return StartKey.objects.filter(created_at__lte=now - KEPT).delete()[0]
