"""Celery's doors to the ledger and to the conversations."""

import logging

from celery import shared_task
from django.utils import timezone

from inference import conversations, usage
from vllm_portal.config import get_config

logger = logging.getLogger(__name__)


@shared_task
def flush_usage() -> None:
    """Writes settled requests to the database. Beat asks for it twice a second; missed or doubled, nothing is lost."""
    usage.flush()


@shared_task
def delete_old_conversations() -> None:
    """What `conversation_retention_days` says. Two at once share the work."""
    days = get_config().conversation_retention_days
    if days is not None and (deleted := conversations.delete_older_than(days, timezone.now())):
        logger.info("deleted %d conversations without a turn for %d days", deleted, days)
