"""Celery: hints to look at a row soon. The database is the truth, so a task may come twice, late, or never."""

import os

from celery import Celery
from celery.signals import worker_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vllm_portal.settings")

app = Celery("vllm_portal")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_init.connect
def _look_at_engines_without_a_broker(**_: object) -> None:
    from engines import rounds  # Django is set up by now

    rounds.keep()
