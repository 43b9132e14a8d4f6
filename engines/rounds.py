"""The reconciler's own clock, in the worker. Beat sends its rounds through the broker; where one of them is away the
worker does not wait for it, but looks at the engines by itself, as often, until a round comes again."""

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
    threading.Thread(target=Clock().run, name="rounds", daemon=True).start()


class Clock:
    def __init__(self) -> None:
        self._since = time.monotonic()
        self._made: float | None = None
        """When the round began that it made last."""

    def run(self) -> None:
        while True:
            time.sleep(min(get_config().reconcile_seconds, LATE_S))
            self.look()

    def look(self) -> bool:
        """One round, where none has begun for too long. Whatever goes wrong with it, the next one comes."""
        alone = self._made is not None and self._made == reconcile.last_began()
        late_s = 0.0 if alone else LATE_S
        if time.monotonic() - max(reconcile.last_began(), self._since) < get_config().reconcile_seconds + late_s:
            return False
        if not alone:
            logger.warning("no round of the reconciler comes from beat; the worker makes its own")
        try:
            self._made = reconcile.reconcile(timezone.now())
        except Exception:
            self._made = reconcile.last_began()
            logger.exception("a round of the reconciler failed")
        finally:
            connection.close()
        return True
