"""Tells the worker to look at an engine soon. A hint may get lost: the reconciler finds the row anyway, only later."""

import logging
import uuid

from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from vllm_portal.celery import app

logger = logging.getLogger(__name__)


def launch(engine_id: uuid.UUID) -> None:
    send("engines.tasks.launch_engine", engine_id)


def stop(engine_id: uuid.UUID, in_s: float = 0.0) -> None:
    """`in_s`: seconds until then."""
    send("engines.tasks.stop_engine", engine_id, in_s)


def sleep(engine_id: uuid.UUID, in_s: float = 0.0) -> None:
    """To one that is to fall asleep, or to wake. `in_s`: seconds until then."""
    send("engines.tasks.see_to_sleep", engine_id, in_s)


def check(engine_id: uuid.UUID, in_s: float = 0.0) -> None:
    """`in_s`: seconds until the look."""
    send("engines.tasks.check_engine", engine_id, in_s)


def send(task: str, engine_id: uuid.UUID, in_s: float = 0.0, through: Celery = app) -> None:
    """Never raises. With the broker away it takes as long as the broker's connect time-out, two seconds."""
    try:
        through.send_task(task, (str(engine_id),), countdown=in_s or None, expires=in_s + 60)
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("no hint about engine %s, it has to wait for the reconciler: %s", engine_id, error)
