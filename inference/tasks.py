"""Celery's doors to the ledger and to the conversations."""

import logging
from concurrent.futures import ThreadPoolExecutor

from celery import shared_task
from django.db import connection, connections
from django.utils import timezone
from redis.exceptions import RedisError

from inference import auditing, conversations, everybodys_usage, idle, usage
from vllm_portal.config import get_config
from vllm_portal.priority import thread_steps_back

logger = logging.getLogger(__name__)


@shared_task
def flush_usage() -> None:
    """Writes settled requests to the database. Beat asks for it twice a second; missed or doubled, nothing is lost."""
    _writer.submit(_flush).result()


def _flush() -> None:
    try:
        usage.flush()
    finally:
        connections.close_all()


_writer = ThreadPoolExecutor(1, "records", initializer=thread_steps_back)  # a batch takes up to 70 ms of CPU


@shared_task
def look_for_idle_engines() -> None:
    """Twice at once stops nothing twice. Without Redis nobody is known to be idle."""
    try:
        idle.look(timezone.now())
    except RedisError as error:
        logger.warning("which engines are idle is not known: %s", error)


@shared_task
def delete_old_conversations() -> None:
    """What `conversation_retention_days` says. Two at once share the work."""
    days = get_config().conversation_retention_days
    if days is not None and (deleted := conversations.delete_older_than(days, timezone.now())):
        logger.info("deleted %d conversations without a turn for %d days", deleted, days)


@shared_task
def audit_ledger() -> None:
    """Reads only; what is broken goes to the log and to the admins' first page."""
    auditing.run(timezone.now())


@shared_task
def sum_up_usage() -> None:
    """For the page /usage. Missed, it shows older numbers and says as of when they are."""
    _summer.submit(_sum_up).result()


def _sum_up() -> None:
    try:
        everybodys_usage.keep_up(timezone.now())
    finally:
        connections.close_all()


_summer = ThreadPoolExecutor(1, "sums", initializer=thread_steps_back)  # seconds, where there is much


@shared_task
def refresh_statistics() -> None:
    """SQLite plans by what it last counted, and otherwise guesses: it would read everybody's sums for one user's.
    Looks at a few hundred rows of each index. PostgreSQL sees to it itself."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA analysis_limit = 400")
            cursor.execute("ANALYZE")
