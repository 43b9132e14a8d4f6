"""The only writer of states, also with many who want to write at once."""

from itertools import pairwise

import pytest

from engines import lifecycle
from engines.models import Engine, EngineEvent, Gpu, GpuLease
from engines.states import Desired, State
from tests.engines.conftest import NOW
from tests.threads import at_once
from vllm_portal.encryption import decrypt

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def gpus():
    return [
        Gpu.objects.create(uuid=f"GPU-{index}", index=index, name="Card", memory_bytes=1, seen_at=NOW)
        for index in range(2)
    ]


def events(engine):
    return [str(event) for event in engine.events.all()]


def test_a_start_is_a_row_with_its_first_event_and_unreadable_secrets(alice, engine_in):
    engine = lifecycle.request_start(
        alice, NOW, hf_token="hf_secret", name="a", model="acme/tiny", launcher="fake", device="cpu"
    )
    assert (engine.state, events(engine)) == (State.QUEUED, ["new -> QUEUED"])
    assert "hf_secret" not in engine.hf_token_encrypted
    assert decrypt(engine.hf_token_encrypted) == "hf_secret"
    assert len(decrypt(engine.engine_key_encrypted)) >= 32


def test_of_many_who_move_an_engine_one_wins_and_one_event_is_written(engine_in):
    engine = engine_in(State.LOADING)
    copies = [Engine.objects.get(pk=engine.pk) for _ in range(8)]

    def ready(copy):
        return lambda: lifecycle.move(copy, State.LOADING, State.READY, NOW, detail="mine")

    results = at_once(*map(ready, copies))
    assert sorted(results) == [False] * 7 + [True]
    assert events(engine).count("LOADING -> READY") == 1
    assert [copy.state for copy in copies].count(State.READY) == 1


def test_a_move_from_another_state_changes_nothing(engine_in):
    engine = engine_in(State.STARTING)
    assert not lifecycle.move(engine, State.LOADING, State.READY, NOW, detail="no")
    engine.refresh_from_db()
    assert (engine.state, engine.detail) == (State.STARTING, "")
    assert "LOADING -> READY" not in events(engine)


def test_a_way_that_is_none_is_a_mistake_of_the_programmer(engine_in):
    with pytest.raises(ValueError, match="no way"):
        lifecycle.move(engine_in(), State.QUEUED, State.READY, NOW)


def test_an_engine_that_is_to_stop_only_moves_towards_its_end(engine_in):
    engine = engine_in(State.LOADING)
    Engine.objects.filter(pk=engine.pk).update(desired=Desired.STOP)
    assert not lifecycle.move(engine, State.LOADING, State.READY, NOW)
    assert lifecycle.request_terminate(engine, NOW, "alice")
    assert lifecycle.stopped(engine, NOW)


def test_ready_and_stop_at_once_end_in_stopping(engine_in):
    for _ in range(5):
        engine = engine_in(State.LOADING)
        one, other = Engine.objects.get(pk=engine.pk), Engine.objects.get(pk=engine.pk)
        at_once(
            lambda one=one: lifecycle.move(one, State.LOADING, State.READY, NOW),
            lambda other=other: lifecycle.request_terminate(other, NOW, "alice"),
        )
        engine.refresh_from_db()
        assert (engine.state, engine.desired) == (State.STOPPING, Desired.STOP)


@pytest.mark.parametrize("state", list(State))
def test_a_stop_may_be_asked_for_in_every_state_and_twice(engine_in, state):
    engine = engine_in(state)
    expected = state not in (State.STOPPING, State.STOPPED, State.FAILED)
    assert lifecycle.request_terminate(engine, NOW, "alice") is expected
    assert lifecycle.request_terminate(engine, NOW, "alice") is False
    engine.refresh_from_db()
    assert engine.state == (State.STOPPING if expected else state)


def test_a_gpu_is_never_given_twice(engine_in, gpus):
    one, other = engine_in(), engine_in()
    results = at_once(lambda: lifecycle.place(one, gpus, NOW), lambda: lifecycle.place(other, [gpus[0]], NOW))
    assert sorted(results) == [False, True]
    assert GpuLease.objects.values("engine").distinct().count() == 1
    assert {one.state, other.state} == {State.PLACED, State.QUEUED}


def test_who_loses_a_placement_holds_no_gpu(engine_in, gpus):
    engine = engine_in()
    stale = Engine.objects.get(pk=engine.pk)
    assert lifecycle.request_terminate(engine, NOW, "alice")
    assert not lifecycle.place(stale, gpus, NOW)
    assert not GpuLease.objects.exists()


@pytest.mark.parametrize("end", ["failed", "stopped"])
def test_the_end_frees_the_gpus_and_forgets_the_token(alice, gpus, end):
    engine = lifecycle.request_start(
        alice, NOW, hf_token="hf_secret", name="a", model="acme/tiny", launcher="fake", device="cuda"
    )
    assert lifecycle.place(engine, gpus, NOW)
    if end == "failed":
        assert lifecycle.failed(engine, NOW, "code", "cause", "advice")
    else:
        assert lifecycle.request_terminate(engine, NOW, "alice")
        assert GpuLease.objects.count() == 2, "while it may live it holds its GPUs"
        assert lifecycle.stopped(engine, NOW)
    engine.refresh_from_db()
    assert not GpuLease.objects.exists()
    assert (engine.hf_token_encrypted, engine.ended_at) == ("", NOW)


def test_what_dies_after_a_stop_was_asked_for_has_stopped(engine_in):
    engine = engine_in(State.STOPPING)
    assert lifecycle.failed(engine, NOW, "killed", "It was killed.")
    assert engine.state == State.STOPPED


def test_progress_moves_the_deadline_only_when_the_log_grows(engine_in):
    engine = engine_in(State.LOADING, deadline_at=NOW)
    lifecycle.progress(engine, NOW, "loading weights 10%", 100)
    moved = Engine.objects.get(pk=engine.pk).deadline_at
    assert moved > NOW
    lifecycle.progress(engine, NOW.replace(year=2031), "loading weights 10%", 100)
    lifecycle.progress(engine, NOW.replace(year=2031), "still", None)
    engine.refresh_from_db()
    assert (engine.deadline_at, engine.detail) == (moved, "still")


def test_events_are_the_whole_history(engine_in):
    engine = engine_in(State.STOPPED)
    pairs = list(EngineEvent.objects.filter(engine=engine).values_list("old_state", "new_state"))
    assert pairs[0] == ("", "QUEUED")
    assert all(before[1] == after[0] for before, after in pairwise(pairs))
    assert pairs[-1][1] == "STOPPED"
