"""The portal's web process, for real, inside the test: uvicorn in a thread, with the test's database and Redis."""

import asyncio
import contextlib
import threading
from datetime import UTC, datetime

import pytest
import requests
import uvicorn

from accounts.auth import issue_tokens
from accounts.models import TokenLimit
from engines import lifecycle
from engines.models import Engine
from engines.states import State
from tests.fakes.upstream import RawEngine, completion, whole
from tests.threads import lent

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Portal:
    """Its address, and requests to it as a user."""

    def __init__(self, server: uvicorn.Server) -> None:
        self.server = server
        self.tokens: dict[int, str] = {}
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def long_way(self) -> int:
        """How many requests uvicorn and ASGI have answered; the others went the short way."""
        return self.server.server_state.total_requests

    def headers(self, user) -> dict[str, str]:
        """A thread of a test keeps no database connection while it waits for its answer."""
        own_thread = threading.current_thread() is not threading.main_thread()
        issue = lent(issue_tokens) if own_thread else issue_tokens
        return {"Authorization": f"Bearer {issue(user)[0]}"}

    def post(self, user, path: str, json: object = None, **options):
        headers = {**self.headers(user), **options.pop("headers", {})}
        return requests.post(self.url + path, json=json, headers=headers, timeout=20, **options)

    def get(self, user, path: str, **options):
        return requests.get(self.url + path, headers=self.headers(user), timeout=20, **options)

    def chat(self, user, **body):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **body}
        return self.post(user, "/v1/chat/completions", body)


@pytest.fixture
def portal(transactional_db, empty_redis, raw_engine):  # the engine outlives it
    from inference.front import Front
    from vllm_portal.asgi import application

    config = uvicorn.Config(
        application, port=0, http=Front, log_config=None, lifespan="on", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the web process did not start"
        thread.join(0.005)
    yield Portal(server)
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def raw_engine():
    engine = RawEngine(whole(completion())).start()
    yield engine
    with contextlib.suppress(RuntimeError):
        engine.stop()


def ready_engine(owner, port: int, **columns) -> Engine:
    """An engine that is READY at 127.0.0.1:port, brought there by the life it would have had."""
    columns = {"model": "tiny", "name": f"tiny-{port}", "launcher": "process", "device": "cpu", **columns}
    engine = lifecycle.request_start(owner, NOW, **columns)
    assert lifecycle.place(engine, [], NOW)
    for old, new in (
        (State.PLACED, State.STARTING),
        (State.STARTING, State.LOADING),
        (State.LOADING, State.READY),
    ):
        assert lifecycle.move(engine, old, new, NOW, host="127.0.0.1", port=port, served_max_model_len=1024)
    return engine


@pytest.fixture
def engine(portal, alice, raw_engine):
    """alice's engine, which answers what the test tells `raw_engine` to."""
    return ready_engine(alice, raw_engine.port)


@pytest.fixture
def limit():
    """limit(user, prompt=…, generated=…): sets total limits before the user's first request."""

    def change(user, prompt: int = 10_000, generated: int = 1_000) -> None:
        TokenLimit.objects.filter(user=user).update(prompt_token_limit=prompt, gen_token_limit=generated)

    return change


@pytest.fixture
def eventually():
    """eventually(claim): waits until claim() is true, 5 s at most."""
    import time

    def wait(claim, timeout_s: float = 5.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not claim():
            assert time.monotonic() < deadline, "did not come true in time"
            time.sleep(0.01)

    return wait


@pytest.fixture
def gateway(portal):
    """The gateway of the portal."""
    from inference.gateway import _gateways

    # Loops of other tests that nobody has collected yet may still have theirs.
    (found,) = [one for loop, one in list(_gateways.items()) if loop.is_running()]
    return found


@pytest.fixture
def write_timeout(gateway):
    """write_timeout(seconds): how long the portal waits for a client that takes nothing, from now on."""
    from inference.watch import TICKS

    def change(seconds: float) -> None:
        gateway.watch._pause_s = seconds / TICKS
        # The clock may be in the middle of its long pause: start it anew.
        gateway.loop.call_soon_threadsafe(lambda: gateway._clocks.append(gateway.loop.create_task(gateway.watch.run())))

    return change
