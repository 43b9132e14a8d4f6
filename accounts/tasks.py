"""Celery's door to people."""

from celery import shared_task

from accounts import quotas, sessions


@shared_task
def correct_counters() -> None:
    """Beat asks for it every ten seconds: what Redis was not told while it was away, it is told now."""
    quotas.correct_all()
    sessions.mark_ended()


@shared_task
def delete_expired_sessions() -> None:
    sessions.delete_expired()
