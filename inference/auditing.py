"""The audit as the portal makes it by itself, each hour or when an admin asks, and what came out."""

import logging
from datetime import datetime

from kombu.exceptions import OperationalError
from redis import RedisError

from inference.audit import audit
from inference.models import AuditRun
from vllm_portal.celery import app

logger = logging.getLogger(__name__)

KEPT = 200
SHOWN = 50
"""Findings that are kept of one audit."""


def run(now: datetime) -> AuditRun:
    """Raises redis.RedisError, DatabaseError; then there is no result."""
    findings = audit()
    for finding in findings:
        logger.error("audit: %s: %s: %s", *finding)
    made = AuditRun.objects.create(
        at=now, broken=len(findings), findings=[finding._asdict() for finding in findings[:SHOWN]]
    )
    old = AuditRun.objects.order_by("-at").values_list("pk", flat=True)[KEPT:]
    AuditRun.objects.filter(pk__in=list(old)).delete()
    return made


def ask() -> bool:
    """Tells a worker to audit now. False: the broker is away."""
    try:
        app.send_task("inference.tasks.audit_ledger", expires=60)
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("no audit now: %s", error)
        return False
    return True
