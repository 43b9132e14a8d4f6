"""From LOADING to READY, to UNHEALTHY and back, or to FAILED."""

import pytest
from django.utils import timezone

from engines import checking, ending, lifecycle
from engines.errors import LauncherError
from engines.models import Engine
from engines.states import State
from tests.engines.conftest import NOW
from tests.fakes.launchers import raising
from tests.threads import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_restarts")]


def look(engine, **options):
    result = checking.check(engine.pk, **options)
    engine.refresh_from_db()
    return result


def test_ready_is_a_real_answer_whose_cost_is_counted(served):
    engine, process = served(State.LOADING, "--max-model-len", "2048")
    assert look(engine) is None
    assert engine.state == State.READY
    assert (engine.task, engine.served_max_model_len, engine.has_chat_template) == ("generate", 2048, True)
    assert (engine.probe_prompt_tokens, engine.probe_generated_tokens) == process.tokens()
    assert engine.probe_generated_tokens == 1
    assert engine.port == process.port
    assert engine.ready_at is not None
    assert engine.deadline_at is None


def test_an_embedding_engine_becomes_ready_as_one(served):
    engine, process = served(State.LOADING, model="acme/tiny-embed")
    look(engine)
    assert (engine.state, engine.task, engine.has_chat_template) == (State.READY, "embed", False)
    assert (engine.probe_prompt_tokens, engine.probe_generated_tokens) == process.tokens()


def test_a_model_without_a_chat_template_is_known_as_one(served):
    engine, _ = served(State.LOADING, "--simulate-no-chat-template")
    look(engine)
    assert (engine.state, engine.has_chat_template) == (State.READY, False)


def test_many_looks_at_once_ask_once(served):
    engine, process = served(State.LOADING)
    at_once(*[lambda: checking.check(engine.pk)] * 5)
    engine.refresh_from_db()
    assert engine.state == State.READY
    assert (engine.probe_prompt_tokens, engine.probe_generated_tokens) == process.tokens()
    assert engine.events.filter(new_state="READY").count() == 1


def test_health_without_an_answer_is_not_ready(served):
    engine, _ = served(State.LOADING, "--simulate-status", "500")
    assert look(engine) is not None
    assert engine.state == State.LOADING
    assert "500" in engine.detail


def test_the_growing_log_of_a_refusing_engine_does_not_move_its_deadline(served, fake, long_ago):
    engine, _ = served(State.LOADING, "--simulate-status", "500", deadline_at=long_ago)
    fake.containers[engine.container_name].log = "POST /v1/completions 500\n" * 9
    look(engine)
    assert (engine.state, engine.cause_code) == (State.FAILED, "stalled")


def test_progress_is_shown_and_moves_the_deadline(running, fake, long_ago):
    engine = running(State.LOADING, deadline_at=long_ago)
    fake.containers[engine.container_name].log = "Loading safetensors checkpoint shards:  45% Completed | 9/20\n"
    again_in_s = look(engine)
    assert (engine.state, engine.detail) == (State.LOADING, "loading weights 45%")
    assert engine.deadline_at > timezone.now()
    assert 0.2 <= again_in_s <= 1


def test_no_progress_until_the_deadline_is_a_failure(running, fake, long_ago):
    engine = running(State.LOADING, deadline_at=long_ago)
    look(engine)
    assert (engine.state, engine.cause_code) == (State.FAILED, "stalled")
    assert fake.containers == {}


def test_a_quick_look_does_not_read_the_log(running, fake):
    engine = running(State.LOADING)
    fake.containers[engine.container_name].log = "Loading safetensors checkpoint shards:  45% Completed | 9/20\n"
    look(engine, thorough=False)
    assert engine.detail == ""


@pytest.mark.parametrize("state", [State.LOADING, State.READY, State.UNHEALTHY])
def test_what_has_ended_has_failed_at_once_and_its_log_stays_readable(running, fake, state):
    engine = running(state)
    fake.die(engine.container_name, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB.\n")
    look(engine)
    assert (engine.state, engine.cause_code) == (State.FAILED, "gpu_out_of_memory")
    assert fake.containers == {}
    assert "OutOfMemory" in fake.logs(engine.container_name)


@pytest.mark.parametrize("state", [State.LOADING, State.READY, State.UNHEALTHY])
def test_what_is_gone_has_failed_at_once(running, fake, state):
    engine = running(state)
    fake.containers.clear()
    look(engine)
    assert (engine.state, engine.cause_code) == (State.FAILED, "removed")


@pytest.mark.parametrize("state", [State.LOADING, State.READY, State.UNHEALTHY])
def test_unknown_kills_nothing_and_frees_nothing(running, fake, state, long_ago):
    engine = running(state, deadline_at=long_ago)
    fake.unknown = True
    for _ in range(5):
        look(engine)
    assert engine.state == state
    assert (engine.missed_checks, engine.cause_code, fake.calls) == (0, "", [])


def test_three_misses_in_a_row_are_unhealthy_and_two_are_not(running):
    engine = running(State.READY)
    look(engine)
    look(engine)
    assert (engine.state, engine.missed_checks) == (State.READY, 2)
    look(engine)
    assert engine.state == State.UNHEALTHY
    assert "3 health checks" in engine.detail
    assert engine.deadline_at > timezone.now()


def test_an_answer_in_between_starts_the_count_again(served):
    engine, _ = served(State.READY)
    Engine.objects.filter(pk=engine.pk).update(missed_checks=2)
    look(engine)
    assert (engine.state, engine.missed_checks) == (State.READY, 0)


def test_a_healthy_engine_costs_no_tokens(served):
    engine, process = served(State.READY)
    for _ in range(4):
        look(engine)
    assert process.tokens() == (0, 0)


def test_who_answers_again_is_ready_again(served):
    engine, process = served(State.UNHEALTHY)
    look(engine)
    assert (engine.state, engine.missed_checks, engine.deadline_at) == (State.READY, 0, None)
    assert (engine.probe_prompt_tokens, engine.probe_generated_tokens) == process.tokens()


def test_health_alone_does_not_make_it_ready_again(served):
    engine, _ = served(State.UNHEALTHY, "--simulate-status", "503")
    look(engine)
    assert engine.state == State.UNHEALTHY


def test_one_that_never_answers_again_has_failed(running, fake):
    engine = running(State.UNHEALTHY)
    Engine.objects.filter(pk=engine.pk).update(deadline_at=NOW.replace(year=2020))
    look(engine)
    assert (engine.state, engine.cause_code) == (State.FAILED, "unresponsive")
    assert fake.containers == {}


@pytest.mark.parametrize("state", [State.QUEUED, State.STARTING, State.STOPPING, State.STOPPED, State.FAILED])
def test_what_does_not_run_is_not_looked_at(fake, engine_in, state, state_of):
    engine = engine_in(state)
    assert checking.check(engine.pk) is None
    assert state_of(engine) == state


def test_a_stop_wins_over_a_failure(running, fake):
    engine = running(State.READY)
    lifecycle.request_terminate(engine, NOW, "alice")
    fake.die(engine.container_name, "ValueError: boom")
    look(engine)
    assert engine.state == State.STOPPING
    ending.stop(engine.pk)
    engine.refresh_from_db()
    assert engine.state == State.STOPPED


class TestAFailureIsCutShort:
    """Save the cause, end what runs, FAILED: the portal is killed between any two."""

    @pytest.fixture
    def dead(self, running, fake):
        engine = running(State.READY)
        fake.die(engine.container_name, "torch.OutOfMemoryError: CUDA out of memory\n")
        return engine

    def test_before_the_end_of_what_runs(self, dead, fake):
        fake.before_stop = raising(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            checking.check(dead.pk)
        dead.refresh_from_db()
        assert (dead.state, dead.cause_code) == (State.READY, "gpu_out_of_memory")
        fake.before_stop = lambda name: None
        look(dead)
        assert (dead.state, dead.cause_code, fake.containers) == (State.FAILED, "gpu_out_of_memory", {})

    def test_before_the_change_of_state(self, dead, fake, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(lifecycle, "failed", raising(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                checking.check(dead.pk)
        dead.refresh_from_db()
        assert (dead.state, fake.containers) == (State.READY, {})
        look(dead)
        assert (dead.state, dead.cause_code) == (State.FAILED, "gpu_out_of_memory"), "and not: it was removed"

    def test_while_the_launcher_is_away(self, dead, fake):
        fake.before_stop = raising(LauncherError("no daemon"))
        look(dead)
        assert (dead.state, dead.cause_code) == (State.READY, "gpu_out_of_memory")
        fake.before_stop = lambda name: None
        look(dead)
        assert dead.state == State.FAILED


class TestStops:
    def test_the_end_is_the_launchers_word(self, running, fake):
        engine = running(State.READY)
        lifecycle.request_terminate(engine, NOW, "alice")
        fake.before_stop = raising(LauncherError("no daemon"))
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert engine.state == State.STOPPING
        fake.before_stop = lambda name: None
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, fake.containers) == (State.STOPPED, {})

    def test_twice_at_once_ends_once(self, running, fake):
        engine = running(State.READY)
        lifecycle.request_terminate(engine, NOW, "alice")
        at_once(*[lambda: ending.stop(engine.pk)] * 4)
        assert engine.events.filter(new_state="STOPPED").count() == 1

    @pytest.mark.parametrize("state", [State.QUEUED, State.READY, State.STOPPED, State.FAILED])
    def test_only_what_is_stopping_is_ended(self, fake, engine_in, state, state_of):
        engine = engine_in(state)
        ending.stop(engine.pk)
        assert (state_of(engine), fake.calls) == (state, [])
