"""A data directory and a private Redis for each test process; the database is SQLite, or what
PORTAL_DATABASE_URL names."""

import atexit
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import django
import pytest
from hypothesis import HealthCheck, settings

_DIRECTORY = Path(tempfile.mkdtemp(prefix="portal-test-"))
atexit.register(shutil.rmtree, _DIRECTORY, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith("PORTAL_") and name != "PORTAL_DATABASE_URL"]:
    del os.environ[_name]
os.environ |= {
    # Named here and not in pyproject.toml: Django must not read its settings before the lines below are in force.
    "DJANGO_SETTINGS_MODULE": "vllm_portal.settings",
    "PORTAL_CONFIG": str(_DIRECTORY / "none.yaml"),
    "PORTAL_DATA_DIR": str(_DIRECTORY),
    "PORTAL_LAUNCHER": "simulator",
    "PORTAL_HF_CHECK": "false",
    "PORTAL_HF_CACHE_DIR": str(_DIRECTORY / "hf"),  # models are removed from it
    "PORTAL_USAGE_BACKLOG_SECONDS": "0",  # no worker runs beside the tests
}

# How long an example takes tells of the machine and who else works on it.
settings.register_profile("portal", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("portal")

# A shell that put the tests into its background had them ignore Ctrl-C, and every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

django.setup()  # before the conftest files of the folders below, which import models
# Processes that pytest-xdist starts inherit the environment: with this they would read the settings before this file.
del os.environ["DJANGO_SETTINGS_MODULE"]


@pytest.fixture(scope="session", autouse=True)
def redis_server():
    """The private Redis of this test process."""
    from vllm_portal import embedded_redis
    from vllm_portal.config import get_config

    process = embedded_redis.start(_DIRECTORY / "redis", get_config().redis_socket)
    yield process
    process.terminate()
    process.wait(timeout=10)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup):
    """Emptying the database after a test with threads would write the rows of all permissions anew; nobody asks for
    them here."""
    from django.contrib.auth.management import create_permissions
    from django.db.models.signals import post_migrate

    assert post_migrate.disconnect(dispatch_uid="django.contrib.auth.management.create_permissions")
    yield
    post_migrate.connect(create_permissions, dispatch_uid="django.contrib.auth.management.create_permissions")


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    """A slow hash proves nothing here and takes most of the time of a test."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def empty_redis(redis_server):
    """Each test starts with no live counters."""
    from vllm_portal.redis_client import client

    client().flushall()


@pytest.fixture(autouse=True)
def connections_come_back():
    """On PostgreSQL: a thread that ends without giving its connection back takes it from the pool for good."""
    from django.db import connection

    before = _connections_out()
    yield
    deadline = time.monotonic() + 2
    connection.close()  # this thread's
    while (out := _connections_out()) > before:
        assert time.monotonic() < deadline, f"{out - before} connections did not come back: use tests.threads.lent"
        time.sleep(0.01)


def _connections_out() -> int:
    from django.db import connection

    if not connection.settings_dict["OPTIONS"].get("pool"):
        return 0
    stats = connection.pool.get_stats()
    return stats["pool_size"] - stats["pool_available"]


@pytest.fixture
def people(db):
    """A fixed cast: alice and bob are users, root is an admin. Their password is `correct horse`."""
    from accounts.models import Role, User

    return {
        name: User.objects.create_user(name, password="correct horse", role=role)
        for name, role in (("alice", Role.USER), ("bob", Role.USER), ("root", Role.ADMIN))
    }


@pytest.fixture
def alice(people):
    return people["alice"]


@pytest.fixture
def bob(people):
    return people["bob"]


@pytest.fixture
def root(people):
    return people["root"]


@pytest.fixture
def client_of():
    """client_of(user): a DRF test client that sends the user's access token."""
    from rest_framework.test import APIClient

    from accounts.auth import issue_tokens

    def make(user):
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {issue_tokens(user)[0]}")
        return client

    return make
