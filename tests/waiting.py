"""Waiting for a condition, where a test cannot know how long something takes."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 60.0  # the machine may be busy with other tests


def wait_until(condition: Callable[[], Any], what: str = "it", seconds: float = PATIENCE_S) -> Any:
    """What the condition gave as soon as that counts as true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return found
