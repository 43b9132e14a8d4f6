"""Several reconcilers at once, as of several workers whose Redis is away: no turn keeps one from doing what another
does. Decision 0032."""

import contextlib
import random
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest
from django.utils import timezone

from engines import checking, ending, health, launching, lifecycle, reconcile, sleeping, strays
from engines.launchers.base import Status
from engines.models import Engine, Gpu, GpuLease
from engines.states import State, allowed
from tests.engines.conftest import NOW
from tests.threads import lent
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

AT_ONCE, DEATHS, GPUS = 3, 12, 3


@contextlib.contextmanager
def any_turn(what, wait_s=0.0):
    yield True


@pytest.fixture
def no_turns(monkeypatch):
    """Nor does a reconciler know of what another has begun."""
    threads = []

    def run_apart(what, act, engine_id):
        thread = threading.Thread(target=reconcile._alone, args=(act, engine_id), daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    monkeypatch.setattr(reconcile, "_run_apart", run_apart)
    for module in (checking, ending, launching, sleeping):
        monkeypatch.setattr(module, "turn", any_turn)
    yield
    for thread in threads:
        thread.join(30)


@pytest.fixture
def answering(monkeypatch, fake):
    """What runs answers."""
    monkeypatch.setattr(health, "is_healthy", lambda *_, **__: True)
    monkeypatch.setattr(health, "prove", lambda *_, **__: health.Proof("generate"))
    monkeypatch.setattr(health, "told", lambda *_, **__: None)
    for name, value in (("served_max_model_len", 1024), ("has_chat_template", True), ("vllm_version", "0.32.0")):
        monkeypatch.setattr(health, name, lambda *_, value=value: value)
    for name, value in (("_looked_at", float("-inf")), ("LOOK_SECONDS", 0.0), ("BETWEEN_LOOKS_SECONDS", 0.2)):
        monkeypatch.setattr(strays, name, value)
    monkeypatch.setattr(ending, "PAUSES_S", (0,))


@pytest.fixture
def slow(monkeypatch, fake):
    """Now and then a launcher that holds somebody up, for longer than another takes to a whole new generation."""

    def held_up(*_):
        time.sleep(random.choice((0, 0, 0, 0.5)))

    real = fake.logs
    monkeypatch.setattr(fake, "logs", lambda *given: held_up() or real(*given))
    fake.before_start = fake.before_stop = held_up


def test_nothing_is_given_twice_nor_left_over(fake, engine_in, answering, slow, no_turns, setting):
    setting(engine_restarts=10 * DEATHS)
    for number in range(GPUS):
        Gpu.objects.create(uuid=f"GPU-{number}", index=number, name="Card", memory_bytes=1, seen_at=NOW)
    engines = [engine_in(device="cuda") for _ in range(GPUS + 2)]
    over, trouble = threading.Event(), []

    @lent
    def reconciles():
        while not over.is_set():
            try:
                reconcile.reconcile(timezone.now())
            except Exception as error:
                trouble.append(error)
            time.sleep(random.random() / 50)

    workers = [threading.Thread(target=reconciles, daemon=True) for _ in range(AT_ONCE)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(DEATHS):
            wait_until(lambda: ready() == GPUS, "all are ready")
            assert GpuLease.objects.count() == GPUS
            with contextlib.suppress(KeyError):
                fake.die(random.choice(list(fake.containers)))
        wait_until(lambda: ready() == GPUS and only_those_that_are_ready(fake), "what is left over is gone")
        lifecycle.request_terminate(engines[0], timezone.now(), "alice")
        wait_until(lambda: Engine.objects.get(pk=engines[0].pk).state == State.STOPPED and ready() == GPUS)
        wait_until(lambda: only_those_that_are_ready(fake), "what is left over is gone")
    finally:
        over.set()
        for worker in workers:
            worker.join(30)
    assert not trouble, trouble
    states = list(Engine.objects.order_by("created_at").values_list("state", flat=True))
    assert states == ["STOPPED", *["READY"] * GPUS, "QUEUED"]
    for engine in Engine.objects.all():
        assert_its_events_are_one_life(engine)


def ready():
    return Engine.objects.filter(state=State.READY).count()


def only_those_that_are_ready(fake):
    runs = {name for name, container in list(fake.containers.items()) if container.seen.status is Status.RUNNING}
    return runs == {engine.container_name for engine in Engine.objects.filter(state=State.READY)}


def assert_its_events_are_one_life(engine):
    events = list(engine.events.order_by("pk"))
    for before, after in pairwise(events):
        assert after.old_state == before.new_state
        assert allowed(State(after.old_state), State(after.new_state))
    ways = Counter((event.old_state, event.new_state) for event in events)
    assert ways[State.STOPPING, State.PLACED] == engine.generation - 1 == engine.restarts
