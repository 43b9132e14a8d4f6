"""What an engine answers ends before the engine does, whoever stops it, within a bound and unless it is to end now."""

from contextlib import contextmanager
from datetime import timedelta

import pytest
import requests
from django.test import Client
from django.utils import timezone

from engines import checking, draining, ending, hints, leaving, lifecycle, reconcile, tasks, terminating, terms
from engines.health import MISSES
from engines.models import Engine
from engines.states import Desired, State
from tests.engines.conftest import NOW, join_apart
from tests.waiting import wait_until
from vllm_portal.encryption import decrypt

pytestmark = pytest.mark.django_db(transaction=True)
TERMINATE = "/vllm_request/terminate"
LONG_AGO = timedelta(seconds=10)


@pytest.fixture(autouse=True)
def a_minute(fake, setting):
    setting(stop_drain_seconds=60, stop_wait_seconds=0.0)


@pytest.fixture
def listening(served):
    """listening(state, *flags): an engine whose address the portal knows, and its process."""

    def make(state=State.READY, *flags, **columns):
        engine, process = served(State.READY, *flags, **columns)
        checking.check(engine.pk)
        if state == State.UNHEALTHY:
            seen = Engine.objects.get()
            assert lifecycle.move(seen, State.READY, state, timezone.now(), missed_checks=MISSES)
        engine.refresh_from_db()
        return engine, process

    return make


@contextmanager
def answering(engine, process):
    """Somebody reads a long answer of it, whose lines these are."""
    key = {"Authorization": f"Bearer {decrypt(engine.engine_key_encrypted)}"}
    body = {"model": "acme/tiny", "prompt": "hi", "max_tokens": 500, "stream": True, "ignore_eos": True}
    address = f"http://127.0.0.1:{process.port}/v1/completions"
    with requests.post(address, json=body, headers=key, stream=True, timeout=20) as stream:
        lines = stream.iter_lines()  # kept: its end would be the connection's
        next(lines)
        yield lines


def by_hand(engine, ago=LONG_AGO):
    return lifecycle.request_terminate(engine, timezone.now() - ago, "alice")


def by_the_portal(engine, ago=LONG_AGO):
    return terms.stop(engine, timezone.now() - ago, terms.IDLE, "It was idle.", "")


def asleep(engine, ago=LONG_AGO):
    return terms.rest(engine, timezone.now() - ago, terms.IDLE, "It was idle.", "")


def goes_on(engine):
    """What a hint, or the reconciler, does for one that is to end. Returns the state."""
    ending.stop(engine.pk)
    return Engine.objects.get(pk=engine.pk).state


@pytest.mark.parametrize("stop", [by_hand, by_the_portal, asleep])
def test_what_it_answers_ends_first(listening, stop):
    engine, process = listening(State.READY, "--simulate-token-seconds", "0.05")
    with answering(engine, process):
        assert stop(engine)
        assert not Engine.objects.serving().exists(), "out of the routes at once"
        assert goes_on(engine) == State.STOPPING
    wait_until(lambda: process.running() == 0)
    assert goes_on(engine) == (State.ASLEEP if stop is asleep else State.STOPPED)
    assert not terms.stop(Engine.objects.get(), timezone.now(), terms.IDLE, "", "") or stop is asleep


@pytest.mark.parametrize(("stop", "known"), [(by_hand, ending.HEARD), (by_the_portal, ending.KNOWN)])
def test_one_that_does_nothing_ends_as_soon_as_nobody_sends_it_anything_more(listening, stop, known):
    """A request may still be on its way to it."""
    engine, _ = listening()
    assert stop(engine, ago=timedelta(0))
    assert goes_on(engine) == State.STOPPING
    Engine.objects.update(state_since=timezone.now() - known)
    assert goes_on(engine) == State.STOPPED


def test_one_that_does_not_tell_may_be_busy_unless_it_is_gone(running, fake):
    engine = running(State.READY)
    assert by_hand(engine)
    assert goes_on(engine) == State.STOPPING
    fake.containers.clear()
    assert goes_on(engine) == State.STOPPED


def test_one_that_does_not_answer_any_more_is_not_waited_for(running):
    engine = running(State.UNHEALTHY, missed_checks=MISSES)
    assert by_hand(engine)
    assert goes_on(engine) == State.STOPPED


def test_one_that_was_late_and_tells_that_it_works_is(listening):
    engine, process = listening(State.UNHEALTHY, "--simulate-token-seconds", "0.05")
    with answering(engine, process):
        assert by_hand(engine)
        assert goes_on(engine) == State.STOPPING


@pytest.mark.parametrize("stop", [by_hand, by_the_portal])
def test_not_for_ever(listening, stop, monkeypatch):
    engine, _ = listening()
    monkeypatch.setattr("engines.health.told", lambda *_: pytest.fail("it is not asked any more"))
    assert stop(engine, ago=timedelta(seconds=61))
    assert goes_on(engine) == State.STOPPED


def test_not_at_all_where_the_settings_say_so(listening, setting):
    setting(stop_drain_seconds=0)
    engine, _ = listening()
    assert by_hand(engine, ago=timedelta(0))
    assert goes_on(engine) == State.STOPPED


@pytest.mark.parametrize("state", [State.STARTING, State.LOADING, State.WAKING])
def test_one_that_answers_nobody_yet_ends_at_once(running, state):
    engine = running(state)
    assert by_hand(engine, ago=timedelta(0))
    assert goes_on(engine) == State.STOPPED


def test_so_does_one_that_sleeps_and_one_that_only_falls_asleep_does_not(running):
    asleep, falling = running(State.SLEEPING, slept_at=NOW), running(State.SLEEPING)
    assert by_hand(asleep, ago=timedelta(0))
    assert by_hand(falling, ago=timedelta(0))
    assert (goes_on(asleep), goes_on(falling)) == (State.STOPPED, State.STOPPING)


def test_a_deadline_of_its_start_is_none_of_its_end(running, long_ago):
    engine = running(State.LOADING, deadline_at=timezone.now() + timedelta(hours=1))
    assert by_hand(engine)
    assert Engine.objects.get().deadline_at is None


class TestAtOnce:
    @pytest.fixture
    def drains(self, running):
        """It answers somebody."""
        engine = running(State.READY)
        assert by_hand(engine)
        assert goes_on(engine) == State.STOPPING
        assert "stop it again" not in Engine.objects.get().detail
        return engine

    def test_the_first_time(self, running):
        engine = running(State.READY)
        assert lifecycle.request_terminate(engine, timezone.now(), "alice", at_once=True)
        assert goes_on(engine) == State.STOPPED

    def test_when_it_lets_answers_end_already(self, drains):
        assert lifecycle.request_terminate(drains, timezone.now(), "bob", at_once=True)
        assert not lifecycle.request_terminate(drains, timezone.now(), "bob", at_once=True), "once"
        assert goes_on(drains) == State.STOPPED
        told = [event.message for event in Engine.objects.get().events.all()]
        assert told[-2:] == ["to end at once: asked for by bob", ""]

    def test_on_its_way_to_sleep(self, running):
        engine = running(State.READY)
        assert asleep(engine)
        assert goes_on(engine) == State.STOPPING
        assert lifecycle.request_terminate(engine, timezone.now(), "alice", at_once=True)
        assert goes_on(engine) == State.STOPPED

    def test_a_stop_of_one_that_goes_to_sleep_lets_its_answers_end_too(self, running):
        engine = running(State.READY)
        assert asleep(engine)
        assert by_hand(engine)
        assert goes_on(engine) == State.STOPPING
        assert Engine.objects.get().desired == Desired.STOP

    def test_a_stop_that_is_sent_again_is_one(self, client_of, alice, drains):
        """Clients send a request again whose answer was lost."""
        api = client_of(alice)
        assert api.delete(f"/api/v1/engines/{drains.pk}").status_code == 202
        assert api.post(TERMINATE, {"container_id": str(drains.pk)}, format="json").status_code == 202
        assert goes_on(drains) == State.STOPPING

    @pytest.mark.parametrize("way", ["v1", "terminate"])
    def test_who_says_so(self, client_of, alice, drains, way):
        api = client_of(alice)
        if way == "v1":
            assert api.delete(f"/api/v1/engines/{drains.pk}?now=true").status_code == 202
        else:
            body = {"container_id": str(drains.pk), "now": True}
            assert api.post(TERMINATE, body, format="json").status_code == 202
        assert goes_on(drains) == State.STOPPED

    def test_nonsense_is_refused(self, client_of, alice, drains):
        api = client_of(alice)
        refused = api.delete(f"/api/v1/engines/{drains.pk}?now=perhaps")
        assert (refused.status_code, list(refused.json())) == (400, ["now"])
        refused = api.post(TERMINATE, {"container_id": str(drains.pk), "now": "perhaps"}, format="json")
        assert (refused.status_code, list(refused.json())) == (400, ["now"])
        assert goes_on(drains) == State.STOPPING

    def test_who_presses_the_button_a_second_time_and_not_with_a_double_click(self, alice, running):
        engine = running(State.READY)
        browser = Client()
        browser.force_login(alice)
        for _ in range(2):
            page = browser.post(f"/engine/{engine.pk}/stop", follow=True).content.decode()
            assert f"{engine.name} is being stopped" in page
        for shown in (page, browser.get(f"/engine/{engine.pk}").content.decode()):
            assert f'action="/engine/{engine.pk}/stop"' in shown
            assert ">Stop now<" in shown
        Engine.objects.update(state_since=timezone.now() - ending.HEARD)
        assert goes_on(engine) == State.STOPPING
        page = browser.post(f"/engine/{engine.pk}/stop", follow=True).content.decode()
        assert f"{engine.name} ends at once" in page
        assert ">Stop now<" not in page
        assert goes_on(engine) == State.STOPPED

    def test_who_waits_for_a_users_engines_is_no_second_one(self, people, drains):
        alice, root = people["alice"], people["root"]
        assert not leaving.remove(alice, root, timezone.now(), wait_s=0.3)
        assert goes_on(drains) == State.STOPPING

    def test_the_portals_own_end(self, drains, running):
        running(State.READY)
        assert reconcile.stop_all(timeout_s=20)
        join_apart()
        assert set(Engine.objects.values_list("state", flat=True)) == {State.STOPPED}


def test_it_is_looked_at_again_soon_and_not_only_with_the_next_round(listening, monkeypatch):
    engine, process = listening(State.READY, "--simulate-token-seconds", "0.05")
    sent = []
    monkeypatch.setattr(hints, "stop", lambda engine_id, in_s=0.0: sent.append((engine_id, in_s)))
    terminating.request_terminate(engine, engine.owner)
    assert sent == [(engine.pk, 0.0)]
    tasks.stop_engine(str(engine.pk))
    assert 0 < sent[-1][1] <= ending.HEARD.total_seconds()
    Engine.objects.update(state_since=timezone.now() - ending.HEARD)
    with answering(engine, process):
        tasks.stop_engine(str(engine.pk))
    assert (len(sent), sent[-1]) == (3, (engine.pk, draining.LOOK_S))
    wait_until(lambda: process.running() == 0)
    tasks.stop_engine(str(engine.pk))
    assert (len(sent), Engine.objects.get().state) == (3, State.STOPPED)


def test_its_owner_reads_what_it_waits_for(running):
    engine = running(State.READY)
    assert by_hand(engine, ago=timedelta(0))
    engine = Engine.objects.get()
    assert engine.detail == "its answers may end first, for 60 s at most"
    assert engine.deadline_at - engine.state_since == timedelta(seconds=60)
