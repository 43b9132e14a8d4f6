"""An engine that is ended to be started afresh can be stopped like any other: by its owner, its lease, and its owner's
going."""

from datetime import timedelta

import pytest
from django.utils import timezone

from engines import ending, lifecycle, reconcile, terms
from engines.models import Engine, EngineEvent
from engines.states import Desired, State
from tests.engines.conftest import NOW, join_apart

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def dying(running):
    """One whose pause before the fresh start is long."""
    engine = running(State.READY, restarts=3, lease_hours=1)
    Engine.objects.filter(pk=engine.pk).update(lease_ends_at=timezone.now() + timedelta(hours=1))
    engine.refresh_from_db()
    assert ending.start_afresh(engine, timezone.now(), "it died", restarts=4)
    return engine


def reconciled(engine, rounds=1):
    for _ in range(rounds):
        reconcile.reconcile(timezone.now())
        join_apart()
    engine.refresh_from_db()
    return engine.state


def test_it_waits_and_costs_a_round_nothing(dying, fake):
    for _ in range(2):
        assert (reconciled(dying), fake.calls) == (State.STOPPING, [])
    ending.stop(dying.pk)
    assert (reconciled(dying), fake.containers) == (State.STOPPING, {}), "the hint ends what hangs at once"


def test_the_api_says_what_it_does(dying, client_of, alice):
    api = client_of(alice)
    told = api.get(f"/api/v1/engines/{dying.pk}").json()
    assert (told["state"], told["detail"], told["restarts"]) == ("STOPPING", "to start afresh: it died", 4)
    *_, event = api.get(f"/api/v1/engines/{dying.pk}/events").json()["results"]
    assert (event["new_state"], event["message"]) == ("STOPPING", "is started afresh: it died")


def test_its_events_say_who_stopped_it(dying, client_of, alice):
    assert list(Engine.objects.wakeable()) == [dying]
    assert client_of(alice).delete(f"/api/v1/engines/{dying.pk}").status_code == 202
    assert list(Engine.objects.wakeable()) == [], "nobody is held for it any more"
    assert dying.events.last().message == "stop asked for by alice"
    assert reconciled(dying) == State.STOPPED
    assert (dying.detail, dying.cause) == ("", "")


def test_the_lease_ends_it(dying, no_wait):
    ending.stop(dying.pk)
    Engine.objects.filter(pk=dying.pk).update(lease_ends_at=timezone.now() - timedelta(seconds=1))
    assert reconciled(dying) == State.STOPPED
    assert dying.cause_code == terms.LEASE_ENDED
    assert "lease_ended" in EngineEvent.objects.filter(engine=dying, new_state=State.STOPPING).last().message


def test_the_lease_may_be_extended(dying, alice):
    terms.extend(dying, 5, timezone.now(), alice)
    dying.refresh_from_db()
    assert dying.lease_ends_at > timezone.now() + timedelta(hours=4)


def test_without_its_owner_it_does_not_come_back(dying, alice):
    alice.delete()
    assert reconciled(dying) == State.STOPPED
    assert dying.generation == 1


def test_a_stop_that_is_cut_in_two_leaves_nothing_half_done(running, monkeypatch):
    """Wanted stopped and still READY would be looked after by nobody."""
    engine = running(State.READY)
    monkeypatch.setattr(lifecycle, "move", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lifecycle.request_terminate(engine, NOW, "alice")
    assert Engine.objects.get().desired == Desired.RUN
