"""Engines in any state, launchers that obey the test, and a worker."""

import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from engines import ending, launching, lifecycle, reconcile, sleeping, strays
from engines.launchers import choice
from engines.launchers.process import ProcessLauncher, ProcessSettings
from engines.models import Engine
from engines.states import State
from tests.engines.simulator_process import SimulatorProcess
from tests.fakes.hub import FakeHub
from tests.fakes.launchers import FakeLauncher
from vllm_portal.config import get_config
from vllm_portal.encryption import decrypt

NOW = datetime(2025, 1, 1, tzinfo=UTC)
_WAY = [State.QUEUED, State.PLACED, State.STARTING, State.LOADING, State.READY]
_FURTHER = {State.UNHEALTHY: [State.UNHEALTHY], State.SLEEPING: [State.SLEEPING],
            State.WAKING: [State.SLEEPING, State.WAKING]}  # fmt: skip


@pytest.fixture
def hub(setting, tmp_path):
    hub = FakeHub()
    setting(hf_check=True, hf_endpoint=hub.url, hf_check_timeout_s=10.0, hf_cache_dir=str(tmp_path))
    yield hub
    hub.close()


@pytest.fixture
def setting(monkeypatch):
    """setting(name=value, …): changes the configuration for this test."""

    def change(**values):
        for name, value in values.items():
            assert name in type(get_config()).model_fields
            monkeypatch.setitem(get_config().__dict__, name, value)

    return change


@pytest.fixture
def no_restarts(setting):
    """One that dies has failed; what else may become of it: test_restarting."""
    setting(engine_restarts=0)


@pytest.fixture
def fake(monkeypatch):
    """A launcher that runs nothing; every engine of the test is its."""
    launcher = FakeLauncher()
    monkeypatch.setattr(choice, "launcher", lambda name: launcher)
    # What runs nothing tells nothing, which is taken for busy; one that is about it sets this back.
    monkeypatch.setitem(get_config().__dict__, "stop_drain_seconds", 0)
    monkeypatch.setattr(strays, "_first_seen", {})
    # The machine's own GPUs have no place in a test; one that is about looking sets this back.
    monkeypatch.setattr(reconcile, "_gpus_looked_at", float("inf"))
    return launcher


@pytest.fixture
def engine_in(people):
    """engine_in(state, owner=…, **columns): an engine that came into this state by the life it would have had."""

    def make(state=State.QUEUED, owner=None, **columns):
        number = Engine.objects.count() + 1
        columns = {"model": "acme/tiny", "launcher": "fake", "device": "cpu", "name": f"tiny-{number:04}", **columns}
        later = {name: columns.pop(name) for name in ("container_id", "host", "port", "deadline_at") if name in columns}
        later = {"container_id": f"{number:064x}", "host": "127.0.0.1", "port": 9, **later}
        engine = lifecycle.request_start(owner or people["alice"], NOW, **columns)
        ended = {State.STOPPING, State.STOPPED, State.FAILED}
        slept = state is State.ASLEEP
        further = state in ended or slept or state in _FURTHER
        if state is State.PULLING:
            way = [*_WAY[:2], state]
        elif state is State.FETCHING:
            way = [State.QUEUED, state]
        else:
            way = [*_WAY, *_FURTHER.get(state, [])] if further else _WAY[: _WAY.index(state) + 1]
        if State.PLACED in way:
            assert lifecycle.place(engine, [], NOW)
        for old, new in pairwise(way[1:] if State.PLACED in way else way):
            extra = later if new is State.LOADING else {"ready_at": NOW} if new is State.READY else {}
            assert lifecycle.move(engine, old, new, NOW, **extra)
        if state is State.FAILED:
            assert lifecycle.failed(engine, NOW, "killed", "It was killed.", "Start it again.")
        elif slept:
            assert lifecycle.request_sleep(engine, NOW, "the portal", cause_code="idle", cause="It was idle.")
            assert lifecycle.asleep(engine, NOW)
        elif state in ended:
            assert lifecycle.request_terminate(engine, NOW, "alice")
            if state is State.STOPPED:
                assert lifecycle.stopped(engine, NOW)
        if "deadline_at" in later:
            Engine.objects.filter(pk=engine.pk).update(deadline_at=later["deadline_at"])
        engine.refresh_from_db()
        return engine

    return make


@pytest.fixture
def running(fake, engine_in):
    """running(state, **columns): an engine in this state whose container the fake launcher holds."""

    def make(state, **columns):
        host, port = fake.address
        engine = engine_in(state, host=host, port=port, **columns)
        seen = fake.start(launching.launch_spec(engine))
        fake.calls.clear()
        Engine.objects.filter(pk=engine.pk).update(container_id=seen.container_id)
        engine.refresh_from_db()
        return engine

    return make


@pytest.fixture
def served(running, fake):
    """served(state, *flags): an engine in this state, whose container is a stand-in engine that has loaded. `env`: more
    of its environment."""
    processes = []

    def make(state, *flags, model="acme/tiny", env=None, **columns):
        engine = running(state, model=model, **columns)
        key = decrypt(engine.engine_key_encrypted)
        flags = ("--served-model-name", model, engine.name, *flags)
        process = SimulatorProcess(*flags, model=model, env={"VLLM_API_KEY": key, **(env or {})})
        processes.append(process)
        process.ready()
        container = fake.containers[engine.container_name]
        container.seen = type(container.seen)(**{**container.seen.__dict__, "port": process.port})
        return engine, process

    yield make
    for process in processes:
        process.close()


@pytest.fixture
def sleeper(served, long_ago):
    """sleeper(state, level, *flags): an engine in this state that can sleep, and the stand-in that it is."""

    def make(state=State.SLEEPING, level=1, *flags, **columns):
        engine, process = served(state, *flags, env={"VLLM_SERVER_DEV_MODE": "1"}, **columns)
        columns = {"sleep_level": level, "port": process.port, "deadline_at": None}
        Engine.objects.filter(pk=engine.pk).update(**columns, state_since=long_ago)
        engine.refresh_from_db()
        return engine, process

    return make


@pytest.fixture
def no_wait(monkeypatch):
    """No web process reads the routes here."""
    monkeypatch.setattr(ending, "KNOWN", timedelta(0))


@pytest.fixture
def state_of():
    return lambda engine: Engine.objects.get(pk=engine.pk).state


@pytest.fixture
def long_ago():
    return timezone.now() - timedelta(hours=1)


@pytest.fixture
def simulator(monkeypatch, tmp_path):
    """simulator(*flags): from now on engines are stand-in engines, started with these flags. They are ended with the
    test."""
    made = []

    def make(*flags):
        own = choice.launcher("simulator")
        settings = ProcessSettings(
            **{
                **own._settings.__dict__,
                "runtime_dir": tmp_path / "engines",
                "log_dir": tmp_path / "engine-logs",
                "extra_args": ("--simulate-start-seconds=0.05", *flags),
            }
        )
        launcher = ProcessLauncher(settings)
        made.append(launcher)
        monkeypatch.setattr(choice, "launcher", lambda name: launcher)
        return launcher

    yield make
    for launcher in made:
        for listed in launcher.list():
            launcher.stop(listed.name, 1)


@pytest.fixture
def worker(transactional_db, monkeypatch):
    """A worker that got no hint at all: the reconciler alone, in a thread, until the test ends."""
    monkeypatch.setattr(strays, "_looked_at", float("inf"))
    done, trouble = threading.Event(), []

    def work():
        try:
            while not done.is_set():
                reconcile.reconcile(timezone.now())
                done.wait(0.05)
        except Exception as error:  # the test fails with it, below
            trouble.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    done.set()
    thread.join(60)
    assert not thread.is_alive()
    join_apart()
    assert not trouble, trouble


def join_apart():
    """Waits for the launches and stops that go on in threads of their own."""
    for apart in list(reconcile._apart.values()):
        apart.join(60)
        assert not apart.is_alive()


def goes_on(engine):
    """What a hint, or the reconciler, does for one that is to sleep or to wake. Returns the state."""
    sleeping.go_on(engine.pk)
    engine.refresh_from_db()
    return engine.state


def is_asleep(process):
    return process.get("/is_sleeping").json()["is_sleeping"]


@pytest.fixture
def asked(monkeypatch):
    """The queries so far."""
    asked, real = [], CursorWrapper.execute

    def execute(cursor, query, *given):
        if query.startswith(("SELECT", "UPDATE", "INSERT")):
            asked.append(query)
        return real(cursor, query, *given)

    monkeypatch.setattr(CursorWrapper, "execute", execute)
    return asked
