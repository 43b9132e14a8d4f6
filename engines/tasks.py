"""Celery's doors to engines. A task gets an id and looks at the row: it may run twice, late, or never."""

import uuid

from celery import shared_task
from django.utils import timezone

from engines import checking, compile_cache, ending, fetching, hints, idempotency, launching, leaving, old_logs
from engines import reconcile as reconciling
from engines.launchers.choice import log_dir
from vllm_portal.config import get_config


@shared_task
def launch_engine(engine_id: str) -> None:
    launching.launch(uuid.UUID(engine_id))


@shared_task
def stop_engine(engine_id: str) -> None:
    """Comes again by itself while the engine lets its answers end."""
    again_in_s = ending.stop(uuid.UUID(engine_id))
    if again_in_s is not None:
        hints.stop(uuid.UUID(engine_id), again_in_s)


@shared_task
def check_engine(engine_id: str) -> None:
    """Comes again by itself while the engine loads, so that READY is noticed at once."""
    again_in_s = checking.check(uuid.UUID(engine_id), thorough=False)
    if again_in_s is not None:
        hints.check(uuid.UUID(engine_id), again_in_s)


@shared_task
def see_to_sleep(engine_id: str) -> None:
    reconciling.see_to_sleep(uuid.UUID(engine_id))


@shared_task
def reconcile() -> None:
    reconciling.reconcile(timezone.now())


@shared_task
def forget_start_keys() -> None:
    idempotency.forget_old(timezone.now())


@shared_task
def delete_old_logs() -> None:
    """What `engine_log_days` says; with them what was compiled and is not used any more, and lists of files that nobody
    asks for."""
    fetching.forget_old(timezone.now())
    compile_cache.delete_old(timezone.now())
    days = get_config().engine_log_days
    if days is not None:
        old_logs.delete_older_than(log_dir(), days, timezone.now())


@shared_task
def finish_leaving() -> None:
    """Users whose engines had not ended when they were removed."""
    leaving.finish()
