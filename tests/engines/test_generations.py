"""What was seen of one generation of an engine says nothing of the next, which may be in the same state."""

import pytest

from engines import checking, ending, launching, lifecycle
from engines.diagnosis import Diagnosis
from engines.launchers.base import Observation, Status
from engines.models import Engine
from engines.states import Desired, State
from tests.engines.conftest import NOW

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def late(running, fake):
    """late(state): an engine as somebody saw it, who was held up then; it is in its next generation by now, in the
    same state, and that one runs."""

    def make(state=State.READY):
        seen = running(state)
        fake.stop(seen.container_name, 1)
        Engine.objects.filter(pk=seen.pk).update(generation=2)
        fake.start(launching.launch_spec(Engine.objects.get(pk=seen.pk)))
        return seen

    return make


def unharmed(fake, state):
    engine = Engine.objects.get()
    return (engine.state, engine.generation, engine.cause_code, engine.missed_checks, list(fake.containers)) == (
        state, 2, "", 0, [engine.container_name],
    )  # fmt: skip


@pytest.mark.parametrize("state", [State.LOADING, State.READY, State.UNHEALTHY, State.WAKING])
def test_it_is_not_started_afresh_for_the_death_of_the_one_before(late, fake, state):
    assert not ending.start_afresh(late(state), NOW, "it died")
    assert unharmed(fake, state)


@pytest.mark.parametrize("state", [State.LOADING, State.READY])
def test_nor_has_it_failed(late, fake, state):
    assert not ending.fail(late(state), Diagnosis("killed", "It was killed."))
    assert unharmed(fake, state)


def test_nor_by_a_cause_that_was_saved(late, fake):
    seen = late()
    seen.cause_code, seen.cause = "killed", "It was killed."
    assert not ending.finish_failing(seen)
    assert unharmed(fake, State.READY)


def test_a_look_at_the_one_before_changes_nothing(late, fake):
    seen = late()
    fake.containers[seen.container_name] = type(next(iter(fake.containers.values())))(
        None, Observation(Status.RUNNING, "c", "10.0.0.9", 1)
    )
    checking.look_at(seen)
    del fake.containers[seen.container_name]
    assert unharmed(fake, State.READY)
    assert Engine.objects.get().port != 1


def test_what_ran_before_is_not_taken_for_what_runs(late, fake):
    """Whoever ended the first one comes back when the second is to be ended."""
    seen = late()
    assert ending.start_afresh(Engine.objects.get(), NOW, "it died")
    seen.state = State.STOPPING
    assert not lifecycle.start_afresh(seen, NOW)
    assert not lifecycle.stopped(seen, NOW)
    assert unharmed(fake, State.STOPPING)


def test_a_container_of_the_one_before_is_cleared_away(late, fake):
    """Somebody was held up while the daemon made it."""
    seen = late(State.STARTING)
    observation = fake.start(launching.launch_spec(seen))
    launching._started(seen, observation)
    assert unharmed(fake, State.STARTING)


def test_a_stop_is_meant_for_whichever_it_is(late):
    assert lifecycle.request_terminate(late(), NOW, "alice")
    assert (Engine.objects.get().state, Engine.objects.get().desired) == (State.STOPPING, Desired.STOP)
