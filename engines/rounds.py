"""The reconciler's own clock, in the worker. Beat sends its rounds through the broker; where one of them is away the
worker does not wait for it, but looks at the engines by itself, a little less often."""

import logging
import threading
import time

from django.db import connection
from django.utils import timezone

from engines import reconcile
from vllm_portal.config import get_config

logger = logging.getLogger(__name__)

LATE_S = 3.0
"""A round that is so much later than it should be does not come."""


def keep() -> None:
    """In a thread of its own, for as long as the process lives."""
    threading.Thread(target=_keep, name="rounds", daemon=True).start()


def look() -> bool:
    """One round, where none has begun for too long. Whatever goes wrong with it, the next one comes."""
    if reconcile.since_last_s() < get_config().reconcile_seconds + LATE_S:
        return False
    try:
        reconcile.reconcile(timezone.now())
    except Exception:
        logger.exception("a round of the reconciler failed")
    finally:
        connection.close()
    return True


def _keep() -> None:
    alone = False
    while True:
        time.sleep(min(get_config().reconcile_seconds, LATE_S))
        was, alone = alone, look()
        if alone and not was:
            logger.warning("no round of the reconciler comes from beat; the worker makes its own")
