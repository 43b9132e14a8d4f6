"""Celery's door to the ledger."""

from celery import shared_task

from inference import usage


@shared_task
def flush_usage() -> None:
    """Writes settled requests to the database. Beat asks for it twice a second; missed or doubled, nothing is lost."""
    usage.flush()
