"""vLLM's own sleep: what its owner sees of it, sets and does."""

from datetime import timedelta

import pytest

from engines.models import Engine
from engines.states import State
from tests.engines.conftest import NOW

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_wait")]
ENGINES = "/api/v1/engines"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class TestApi:
    def test_its_owner_wakes_it(self, client_of, alice, bob, engine_in):
        engine = engine_in(State.SLEEPING, shared=True)
        assert client_of(bob).post(f"{ENGINES}/{engine.pk}/wake").status_code == 404
        for _ in range(2):
            answer = client_of(alice).post(f"{ENGINES}/{engine.pk}/wake")
            assert (answer.status_code, answer.json()["state"]) == (202, "WAKING")

    def test_it_tells_when_it_sleeps(self, client_of, alice, engine_in, setting):
        setting(sleep_level=1, sleep_minutes=15)
        engine = engine_in(State.READY, sleep_level=1, used_at=NOW)
        told = client_of(alice).get(f"{ENGINES}/{engine.pk}").json()
        assert (told["sleep_level"], told["sleep_minutes"], told["sleep_at"]) == (1, None, "2025-01-01T00:15:00Z")

    def test_its_owner_says_when_within_the_admins_most(self, client_of, alice, root, engine_in, setting):
        setting(sleep_minutes_most=30)
        engine = engine_in(State.READY)
        api, address = client_of(alice), f"{ENGINES}/{engine.pk}"
        assert api.patch(address, {"sleep_minutes": 30}, format="json").json()["sleep_minutes"] == 30
        for wrong in (31, 0, "x"):
            answer = api.patch(address, {"sleep_minutes": wrong}, format="json")
            assert (answer.status_code, list(answer.json())) == (400, ["sleep_minutes"])
        assert client_of(root).patch(address, {"sleep_minutes": 31}, format="json").status_code == 200
        assert api.patch(address, {"sleep_minutes": None}, format="json").json()["sleep_minutes"] is None
        refused = api.post(ENGINES, {"model": "acme/tiny", "sleep_minutes": 31}, format="json")
        assert refused.json() == {"sleep_minutes": ["At most 30 minutes here; an admin may give more."]}

    @pytest.mark.parametrize("state", [State.SLEEPING, State.WAKING])
    def test_the_documented_list_has_it(self, client_of, alice, engine_in, state):
        engine = engine_in(state)
        (listed,) = client_of(alice).get("/active_models/").json()
        assert listed["container_id"] == engine.container_id
        (found,) = client_of(alice).get(f"{ENGINES}?state={state}").json()["results"]
        assert found["state"] == state


class TestPages:
    @pytest.fixture
    def browser(self, client, alice):
        client.force_login(alice)
        return client

    def test_the_card_says_what_it_means_and_wakes_it(self, browser, engine_in):
        engine = engine_in(State.SLEEPING)
        page = browser.get("/cards").content.decode()
        assert ">dozing<" in page
        assert "#rest" in page
        assert "its place on the GPU is kept" in page
        assert browser.post(f"/engine/{engine.pk}/wake").status_code == 302
        page = browser.get("/cards").content.decode()
        assert ">waking<" in page
        assert f"/engine/{engine.pk}/wake" not in page

    def test_the_card_counts_down(self, browser, engine_in, setting):
        setting(sleep_level=1, sleep_minutes=15, idle_stop_minutes=60)
        engine_in(State.READY, sleep_level=1, used_at=NOW)
        page = browser.get("/cards").content.decode()
        assert "dozes from Wed 00:15 UTC if nobody asks it" in page
        assert "sleeps from Wed 01:00 UTC if nobody asks it" in page

    def test_its_page_sets_it_where_it_can(self, browser, engine_in):
        engine = engine_in(State.READY, sleep_level=1)
        page = f"/engine/{engine.pk}"
        assert 'name="sleep_minutes"' in browser.get(page).content.decode()
        browser.post(f"{page}/keep", {"sleep_minutes": "5", "wakes": "true"})
        assert Engine.objects.get().sleep_minutes == 5
        browser.post(f"{page}/keep", {"wakes": "true"})
        assert Engine.objects.get().sleep_minutes == 5, "a form without it leaves it"
        browser.post(f"{page}/keep", {"sleep_minutes": "", "wakes": "true"})
        assert Engine.objects.get().sleep_minutes is None
        Engine.objects.update(sleep_level=0)
        assert 'name="sleep_minutes"' not in browser.get(page).content.decode()
