"""Logs of engines that are gone are kept for a while, as <container's name>.log."""

import logging
from datetime import datetime, timedelta
from pathlib import Path

from engines.models import Engine

logger = logging.getLogger(__name__)


def delete_older_than(folder: Path, days: int, now: datetime) -> int:
    """How many went. A file counts from its last change on; one of an engine that has not ended stays, however old.
    Two at once share the work."""
    before = (now - timedelta(days=days)).timestamp()
    living = tuple(f"{engine.container_name}." for engine in Engine.objects.active().only("id", "generation"))
    deleted = 0
    for log in [*folder.glob("*.log"), *folder.glob("*.part")]:
        if living and log.name.startswith(living):
            continue
        try:
            if log.is_file() and log.stat().st_mtime < before:
                log.unlink()
                deleted += 1
        except FileNotFoundError:
            continue
        except OSError as error:
            logger.warning("the old log %s stays: %s", log.name, error)
    return deleted
