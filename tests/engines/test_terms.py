"""How long an engine may stay: its lease, its idleness, and what the settings and its owner say of them."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from engines import lifecycle, reconcile, terms
from engines.models import Engine
from engines.states import State
from tests.engines.conftest import NOW, join_apart
from vllm_portal.errors import CallerError, FieldError

pytestmark = pytest.mark.django_db(transaction=True)
ENGINES = "/api/v1/engines"
HOUR = timedelta(hours=1)


def start(api, **options):
    return api.post(ENGINES, {"model": "acme/tiny", **options}, format="json")


class TestLease:
    def test_it_begins_with_the_place(self, client_of, alice, fake):
        assert start(client_of(alice), lease_hours=2.5).json()["lease_ends_at"] is None
        engine = Engine.objects.get()
        assert lifecycle.place(engine, [], NOW)
        engine.refresh_from_db()
        assert engine.lease_ends_at == NOW + 2.5 * HOUR

    @pytest.mark.parametrize(
        ("given", "asked", "hours"),
        [
            ({}, None, None),
            ({"lease_hours": 4.0}, None, 4),
            ({"lease_hours_most": 8.0}, None, 8),
            ({"lease_hours": 4.0, "lease_hours_most": 8.0}, None, 4),
            ({"lease_hours": 4.0, "lease_hours_most": 8.0}, 8, 8),
            ({"lease_hours": 4.0}, 100, 100),
        ],
    )
    def test_the_settings_say_what_nobody_asked_for(self, client_of, alice, fake, setting, given, asked, hours):
        setting(**given)
        assert start(client_of(alice), lease_hours=asked).status_code == 202
        assert Engine.objects.get().lease_hours == hours

    @pytest.mark.parametrize("hours", [8.5, 0, -1, "x", "nan", "inf", 10**9])
    def test_what_is_too_much_or_none_is_refused(self, client_of, alice, fake, setting, hours):
        setting(lease_hours_most=8.0)
        answer = start(client_of(alice), lease_hours=hours)
        assert (answer.status_code, list(answer.json())) == (400, ["lease_hours"])
        assert not Engine.objects.exists()

    def test_an_admin_may_have_more(self, client_of, root, fake, setting):
        setting(lease_hours_most=8.0)
        assert start(client_of(root), lease_hours=100).status_code == 202

    def test_at_its_end_the_engine_is_stopped_and_its_owner_told(self, running, fake):
        over, other = running(State.READY), running(State.READY)
        Engine.objects.filter(pk=over.pk).update(lease_ends_at=NOW)
        Engine.objects.filter(pk=other.pk).update(lease_ends_at=NOW + HOUR)
        reconcile.reconcile(NOW - timedelta(seconds=1))
        over.refresh_from_db()
        assert over.state == State.READY
        for _ in range(2):
            reconcile.reconcile(NOW)
            join_apart()
        over.refresh_from_db()
        other.refresh_from_db()
        assert (over.state, over.cause_code, other.desired) == (State.STOPPED, "lease_ended", "run")
        assert over.cause == f"Its lease ended at {NOW:%Y-%m-%d %H:%M} UTC."
        assert [event.new_state for event in over.events.all()][-2:] == ["STOPPING", "STOPPED"]

    def test_it_is_extended_from_now_on_and_within_the_most(self, client_of, alice, bob, engine_in, setting):
        setting(lease_hours_most=8.0)
        engine = engine_in(State.READY)
        api, address = client_of(alice), f"{ENGINES}/{engine.pk}/extend"
        assert api.post(address, {"hours": 2}, format="json").status_code == 400
        Engine.objects.filter(pk=engine.pk).update(lease_ends_at=timezone.now() + HOUR)
        before = timezone.now()
        for asked, hours in ({"hours": 2}, 2), ({"hours": 2}, 2), ({}, 8):
            answer = api.post(address, asked, format="json")
            assert answer.status_code == 200
            engine.refresh_from_db()
            assert hours * HOUR <= engine.lease_ends_at - before <= hours * HOUR + timedelta(minutes=5)
        refused = api.post(address, {"hours": 9}, format="json")
        assert (refused.status_code, list(refused.json())) == (400, ["lease_hours"])
        assert client_of(bob).post(address, {"hours": 2}, format="json").status_code == 404

    def test_what_has_ended_cannot_be_extended(self, alice, engine_in):
        for state in (State.STOPPING, State.STOPPED, State.FAILED):
            engine = engine_in(state)
            Engine.objects.filter(pk=engine.pk).update(lease_ends_at=NOW)
            with pytest.raises(CallerError, match="no lease"):
                terms.extend(engine, 2.0, NOW, alice)


class TestIdle:
    @pytest.mark.parametrize(
        ("given", "own", "keep", "minutes"),
        [
            ({}, None, None, None),
            ({}, 30, None, 30),
            ({"idle_stop_minutes": 60}, None, None, 60),
            ({"idle_stop_minutes": 60}, 30, None, 30),
            ({"idle_stop_minutes_most": 90}, None, None, 90),
            ({"idle_stop_minutes": 60, "idle_stop_minutes_most": 90}, None, None, 60),
            ({"idle_stop_minutes": 60}, None, 45, 60),
            ({"idle_stop_minutes": 60}, None, 600, 600),
            ({}, None, 600, None),
        ],
    )
    def test_when_it_will_be_stopped(self, engine_in, setting, given, own, keep, minutes):
        setting(**given)
        engine = engine_in(State.READY, idle_minutes=own)
        assert terms.idle_stop_at(engine) is None, "nobody has looked yet"
        engine.used_at = NOW
        engine.keep_until = None if keep is None else NOW + timedelta(minutes=keep)
        assert terms.idle_stop_at(engine) == (None if minutes is None else NOW + timedelta(minutes=minutes))
        engine.state = State.UNHEALTHY
        assert terms.idle_stop_at(engine) is None

    def test_its_owner_says_how_long_within_the_settings(self, client_of, alice, root, engine_in, setting):
        setting(idle_stop_minutes_most=90, keep_days_most=2)
        engine = engine_in(State.READY)
        address, soon = f"{ENGINES}/{engine.pk}", (timezone.now() + timedelta(days=1)).isoformat()
        later = (timezone.now() + timedelta(days=3)).isoformat()
        api = client_of(alice)
        answer = api.patch(address, {"idle_minutes": 90, "keep_until": soon}, format="json").json()
        assert answer["idle_minutes"] == 90
        assert answer["keep_until"][:16] == soon[:16]
        for wrong in ({"idle_minutes": 91}, {"idle_minutes": 0}, {"keep_until": later}, {"keep_until": "tuesday"}):
            refused = api.patch(address, {**wrong, "shared": True}, format="json")
            assert (refused.status_code, list(refused.json())) == (400, list(wrong))
        engine.refresh_from_db()
        assert (engine.idle_minutes, engine.shared) == (90, False)
        more = {"idle_minutes": 91, "keep_until": later}
        assert client_of(root).patch(address, more, format="json").status_code == 200
        answer = api.patch(address, {"idle_minutes": None, "keep_until": None}, format="json").json()
        assert (answer["idle_minutes"], answer["keep_until"]) == (None, None)

    def test_a_start_says_it_too(self, client_of, alice, fake, setting):
        setting(idle_stop_minutes_most=90)
        refused = start(client_of(alice), idle_minutes=91).json()
        assert refused == {"idle_minutes": ["At most 90 minutes here; an admin may give more."]}
        assert start(client_of(alice), idle_minutes="30").json()["idle_minutes"] == 30


class TestGpusOfOneUser:
    def test_more_than_allowed_are_refused(self, client_of, alice, bob, fake, setting, engine_in):
        setting(gpus_per_user=3, device="cuda", launcher="docker")
        engine_in(State.READY, device="cuda", tensor_parallel_size=2)
        engine_in(State.FAILED, device="cuda", tensor_parallel_size=4)
        refused = start(client_of(alice), tensor_parallel_size=2)
        assert refused.status_code == 400
        assert "hold or wait for 2 GPUs, and 3 are allowed" in refused.content.decode()
        assert start(client_of(alice)).status_code == 202
        assert start(client_of(bob), tensor_parallel_size=3).status_code == 202


class TestPage:
    def test_its_owner_keeps_it_by_a_form(self, alice, bob, engine_in, setting):
        setting(lease_hours_most=8.0)
        engine = engine_in(State.READY)
        Engine.objects.filter(pk=engine.pk).update(lease_ends_at=timezone.now() + HOUR, used_at=timezone.now())
        browser = Client()
        browser.force_login(alice)
        address = f"/engine/{engine.pk}/keep"
        day = timezone.now() + timedelta(days=1)
        given = {"hours": "3", "idle_minutes": "30", "keep_until": f"{day:%Y-%m-%dT%H:%M}"}
        page = browser.post(address, given, follow=True).content.decode()
        assert f"Saved how long {engine.name} stays." in page
        assert f'value="{day:%Y-%m-%dT%H:%M}"' in page
        engine.refresh_from_db()
        assert engine.lease_ends_at > timezone.now() + 2.9 * HOUR
        assert f"until {engine.lease_ends_at:%a %H:%M} UTC" in page
        assert f"stops at {day:%a %H:%M} UTC if nobody asks it" in page
        for wrong, said in (
            ({"hours": "9"}, "At most 8 hours"),
            ({"hours": "x"}, "Hours of its lease: A valid number"),
            ({"idle_minutes": "0"}, "Minutes until it stops: "),
        ):
            assert said in browser.post(address, {**given, **wrong}, follow=True).content.decode()
            kept = browser.post(address, {**given, **wrong}, headers={"HX-Request": "true"})
            assert (kept["HX-Reswap"], said in kept.content.decode()) == ("none", True), "what was typed stays"
        browser.force_login(bob)
        assert browser.post(address, given).status_code == 404


def test_what_is_asked_for_is_checked_before_anything_is_kept(alice, engine_in, setting):
    setting(keep_days_most=1)
    engine = engine_in(State.READY)
    with pytest.raises(FieldError):
        terms.change(engine, NOW, alice, {"idle_minutes": 5, "keep_until": NOW + timedelta(days=2)})
    engine.refresh_from_db()
    assert engine.idle_minutes is None
