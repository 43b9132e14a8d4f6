from datetime import UTC, datetime

import pytest

from inference import usage
from vllm_portal.redis_client import client

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def committed(django_capture_on_commit_callbacks):
    """`with committed():` runs what waits for the commit."""
    return lambda: django_capture_on_commit_callbacks(execute=True)


@pytest.fixture
def live():
    """live(user): the live counters, loaded first where they are not: a dict of ints."""

    def read(user, load: bool = True) -> dict[str, int]:
        if load and not client().exists(f"quota:{user.pk}"):
            usage.load(user.pk)
        return {name: int(value) for name, value in client().hgetall(f"quota:{user.pk}").items()}

    return read
