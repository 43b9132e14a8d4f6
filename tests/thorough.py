"""How many generated examples a test takes: the same few each time, or THOROUGH times as many and always new ones."""

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("THOROUGH", "0"))


def examples(count: int) -> settings:
    return settings(
        max_examples=count * max(TIMES, 1),
        derandomize=not TIMES,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
