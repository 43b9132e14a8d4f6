"""No GPU waits for an image: it comes before the place, as what is downloaded does (decision 0030)."""

import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.utils import timezone

from engines import launching, lifecycle, queueing, reconcile, starts
from engines.downloads import told
from engines.errors import LauncherError, StartFailed
from engines.models import Engine, Gpu, GpuLease
from engines.states import State
from tests.engines.conftest import NOW, join_apart
from tests.fakes.launchers import raising
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
IMAGE, OTHER = "acme/vllm:1", "acme/vllm:2"


@pytest.fixture
def gpu():
    return Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=1, seen_at=timezone.now())


@pytest.fixture
def wanted(engine_in):
    return lambda image=IMAGE, state=State.QUEUED, **more: engine_in(
        state, launcher="docker", image=image, device="cuda", **more
    )


def launched(engine):
    launching.launch(engine.pk)
    engine.refresh_from_db()
    return engine.state


def join_others(engine):
    """Launches that go on, but for this engine's."""
    for (_, engine_id), thread in list(reconcile._apart.items()):
        if engine_id != engine.pk:
            thread.join(20)


def ways(engine):
    return [event.new_state for event in engine.events.all()]


@contextmanager
def pull_that_lasts(fake, engine):
    """The engine's pull goes on within, and has ended after it."""
    go_on = threading.Event()
    fake.before_prepare = lambda progress: go_on.wait(20)
    reconcile._run_apart("launch", launching.launch, engine.pk)
    wait_until(lambda: "prepare" in fake.calls, "a pull")
    try:
        yield
    finally:
        go_on.set()
        fake.before_prepare = lambda progress: None
        join_apart()
        engine.refresh_from_db()


def test_while_it_comes_no_gpu_is_held_and_others_get_it(fake, wanted, gpu, monkeypatch):
    fake.images.add(OTHER)
    first = wanted()
    with pull_that_lasts(fake, first):
        assert not GpuLease.objects.exists()
        later = wanted(OTHER)
        assert launched(later) == State.QUEUED, "for a moment: it may be there soon"
        monkeypatch.setattr(queueing, "UNTOLD", timedelta(0))
        assert launched(later) == State.LOADING
    assert (first.state, first.deadline_at) == (State.QUEUED, None)
    assert "waiting for 1 free GPU" in first.detail
    assert ways(first) == ["QUEUED", "PULLING", "QUEUED"]


def test_afterwards_it_comes_before_all_who_were_asked_for_later(fake, wanted, gpu, monkeypatch):
    monkeypatch.setattr(queueing, "UNTOLD", timedelta(0))
    fake.images.add(OTHER)
    first = wanted()
    with pull_that_lasts(fake, first):
        holder, later = wanted(OTHER), wanted(OTHER)
        assert (launched(holder), launched(later)) == (State.LOADING, State.QUEUED)
    places = queueing.of([first, later], timezone.now())
    assert (places[first.pk].position, places[later.pk].position) == (1, 2)


def test_that_its_model_was_downloaded_is_no_sign_of_its_image(fake, wanted, gpu, monkeypatch):
    monkeypatch.setattr(queueing, "UNTOLD", timedelta(0))
    fake.images.add(OTHER)
    first = wanted(download=told.LEFT | {"bytes_done": 5, "bytes_total": 5, "eta_s": 0.0})
    with pull_that_lasts(fake, first):
        assert launched(wanted(OTHER)) == State.LOADING


def test_its_lease_begins_with_its_place(fake, wanted, gpu):
    engine = wanted(lease_hours=2)
    assert launched(engine) == State.LOADING
    assert ways(engine) == ["QUEUED", "PULLING", "QUEUED", "PLACED", "STARTING", "LOADING"]
    assert engine.lease_ends_at == engine.events.get(new_state=State.PLACED).at + timedelta(hours=2)


def test_where_it_is_there_nothing_is_said_of_it(fake, wanted, gpu):
    fake.images.add(IMAGE)
    engine = wanted()
    assert launched(engine) == State.LOADING
    assert ways(engine) == ["QUEUED", "PLACED", "STARTING", "LOADING"]
    assert fake.calls == ["start"]


def test_one_image_is_pulled_once_however_many_wait_for_it(fake, wanted, gpu):
    first, second = wanted(), wanted()
    with pull_that_lasts(fake, first):
        assert launched(second) == State.PULLING
        assert second.detail == "its image is being pulled for another engine"
        assert fake.calls.count("prepare") == 1
    fake.calls.clear()
    assert launched(second) == State.QUEUED
    assert launched(first) == State.LOADING


def test_who_waits_for_it_costs_a_round_nothing(fake, wanted, gpu, monkeypatch):
    first, *others = (wanted() for _ in range(50))
    with pull_that_lasts(fake, first):
        reconcile.reconcile(timezone.now())
        join_others(first)
        assert {launched(engine) for engine in others} == {State.PULLING}
        began = []
        with monkeypatch.context() as here:
            here.setattr(launching, "launch", began.append)
            reconcile.reconcile(timezone.now())
        assert began == [others[0].pk], "in case that whoever pulls has given up"
    reconcile.reconcile(timezone.now())
    join_apart()
    assert set(Engine.objects.values_list("state", flat=True)) == {State.LOADING, State.QUEUED}


def test_one_that_cannot_be_had_fails_and_has_held_nothing(fake, wanted, gpu):
    fake.before_prepare = raising(StartFailed("image_missing", "There is no such image.", "Correct docker_image."))
    engine = wanted()
    assert launched(engine) == State.FAILED
    assert ways(engine) == ["QUEUED", "PULLING", "FAILED"]


def test_where_the_daemon_is_away_it_is_tried_until_the_deadline(fake, wanted, gpu, long_ago):
    fake.lacks = raising(LauncherError("no daemon"))
    fake.before_prepare = raising(LauncherError("no daemon"))
    first, second = wanted(), wanted()
    assert launched(first) == State.PULLING
    assert (first.detail, first.deadline_at is not None) == ("tries again: no daemon", True)
    assert launched(second) == State.QUEUED, "it waits for no daemon, but in line"
    assert ways(first) == ["QUEUED", "PLACED", "PULLING"]
    Engine.objects.filter(pk=first.pk).update(deadline_at=long_ago)
    assert launched(first) == State.FAILED
    assert "pull_timeout_seconds" in first.cause


def test_a_stop_ends_the_wait(fake, wanted, gpu, state_of):
    engine = wanted()
    with pull_that_lasts(fake, engine):
        assert lifecycle.request_terminate(Engine.objects.get(), timezone.now(), "alice")
        reconcile.reconcile(timezone.now())
        wait_until(lambda: state_of(engine) == State.STOPPED, "the end")
    assert ways(engine) == ["QUEUED", "PULLING", "STOPPING", "STOPPED"]


@pytest.mark.parametrize("there", [True, False])
def test_one_that_has_its_place_keeps_it(fake, wanted, gpu, there):
    """Started afresh, or the image was removed while it waited in line."""
    if there:
        fake.images.add(IMAGE)
    engine = wanted(state=State.PLACED)
    lease = GpuLease.objects.create(gpu=gpu, engine=engine)
    assert launched(engine) == State.LOADING
    pulled = [] if there else ["PULLING"]
    assert ways(engine) == ["QUEUED", "PLACED", *pulled, "STARTING", "LOADING"]
    assert GpuLease.objects.get() == lease


def test_its_time_line_and_what_its_load_took(wanted):
    engine = wanted()
    assert lifecycle.move(engine, State.QUEUED, State.PULLING, NOW)
    assert lifecycle.get_in_line(engine, NOW + timedelta(hours=1))
    assert lifecycle.place(engine, [], NOW + timedelta(hours=2))
    for hours, new in enumerate([State.STARTING, State.LOADING, State.READY], 3):
        assert lifecycle.move(engine, State(engine.state), new, NOW + timedelta(hours=hours))
    engine = Engine.objects.prefetch_related("events").get()
    assert [step.phase for step in starts.timeline(engine)] == ["queue", "pull", "queue", "start", "boot", "ready"]
    assert starts.load_s(engine) == 2 * 3600
