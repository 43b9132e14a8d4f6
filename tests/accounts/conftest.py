from datetime import UTC, datetime

import pytest
from rest_framework.test import APIClient

from accounts import keys
from accounts.models import ApiKey
from inference import usage
from tests.live_rows import row
from vllm_portal.changes import CHANNEL
from vllm_portal.redis_client import client

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def committed(django_capture_on_commit_callbacks):
    """`with committed():` runs what waits for the commit."""
    return lambda: django_capture_on_commit_callbacks(execute=True)


@pytest.fixture
def live():
    """live(user or key): the live counters, loaded first where they are not: as `row`."""

    def read(whose, load: bool = True) -> dict[str, int]:
        subject = f"k{whose.pk}" if isinstance(whose, ApiKey) else str(whose.pk)
        if load and not client().exists(f"counters:{subject}"):
            usage.load(subject)
        return row(subject)

    return read


@pytest.fixture
def key_of():
    """key_of(user, **rights): a client that sends a new API key of the user; `key` and `clear` are its attributes."""

    def make(user, **rights):
        client = APIClient()
        client.key, client.clear = keys.make(user, {"name": "a key", **rights})
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {client.clear}")
        return client

    return make


@pytest.fixture
def heard():
    """heard(): what was announced since it was asked last."""
    listener = client().pubsub(ignore_subscribe_messages=True)
    listener.subscribe(CHANNEL)
    listener.get_message(timeout=1)

    def read() -> list[str]:
        messages = []
        while message := listener.get_message(timeout=0.05):
            messages.append(message["data"])
        return messages

    yield read
    listener.close()
