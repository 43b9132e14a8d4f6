"""Celery: hints to look at a row soon. The database is the truth, so a task may come twice, late, or never."""

import os

from celery import Celery
from celery.signals import worker_init, worker_ready

from vllm_portal.priority import session_steps_back

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vllm_portal.settings")

app = Celery("vllm_portal")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_init.connect
def _look_at_engines_without_a_broker(**_: object) -> None:
    from engines import rounds  # Django is set up by now

    rounds.keep()


@worker_ready.connect
def _step_back(**_: object) -> None:
    """Not before: engines have nobody who looks after them until a worker that died is back, and its imports take long
    where cores are busy."""
    session_steps_back()
