"""The pages of engines: what stands on them, who sees what, and that their forms do what the API does."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from engines import cards, cards_stream, starts, timeline
from engines.models import Engine
from engines.states import State
from tests.engines.conftest import NOW
from tests.threads import lent

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def browser_of():
    def make(user) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return make


def text(answer, status: int = 200) -> str:
    assert answer.status_code == status
    return answer.content.decode()


# Cards


@pytest.mark.parametrize("state", list(State))
def test_a_card_tells_each_state_by_word_colour_and_shape(browser_of, alice, engine_in, state):
    engine_in(state)
    page = text(browser_of(alice).get("/"))
    assert cards.WORDS[state] in page
    assert f"engine-{state}" in page
    assert f"icons.svg#{cards.SHAPES.get(state, 'busy')}" in page


def test_nobody_sees_engines_that_others_keep_to_themselves(browser_of, alice, bob, root, engine_in):
    engine_in(State.READY, name="alices-secret", model="acme/secret")
    engine_in(State.FAILED, name="alices-failed", model="acme/secret")
    for path in ("/", "/cards", "/engine/new"):
        assert "secret" not in text(browser_of(bob).get(path))
        assert "alices-failed" not in text(browser_of(bob).get(path))
    assert "alices-secret" in text(browser_of(root).get("/"))


def test_a_shared_engine_is_seen_and_cannot_be_stopped(browser_of, bob, engine_in):
    engine = engine_in(State.READY, name="for-all", shared=True)
    page = text(browser_of(bob).get("/"))
    assert "Shared with you" in page
    assert "for-all" in page
    assert f"/engine/{engine.pk}" not in page
    for verb, path in (("get", ""), ("post", "/stop")):
        assert getattr(browser_of(bob), verb)(f"/engine/{engine.pk}{path}").status_code == 404
    engine.refresh_from_db()
    assert engine.desired == "run"


def test_what_people_and_models_say_stays_text(browser_of, alice, engine_in):
    engine = engine_in(State.FAILED, name=f"n{HOSTILE}", model=HOSTILE)
    Engine.objects.filter(pk=engine.pk).update(cause=HOSTILE, advice=HOSTILE, detail=HOSTILE)
    browser = browser_of(alice)
    for path in (
        "/",
        "/cards",
        f"/engine/{engine.pk}",
        f"/engine/new?again={engine.pk}",
        f"/engine/new?model={HOSTILE}",
    ):
        page = text(browser.get(path))
        assert HOSTILE not in page
        assert "&lt;script&gt;alert" in page


@pytest.mark.parametrize("path", ["/", "/cards"])
def test_200_engines_cost_as_few_queries_as_one(browser_of, alice, path, django_assert_max_num_queries):
    Engine.objects.bulk_create(
        Engine(owner=alice, name=f"e-{n}", model=f"acme/m{n % 7}", launcher="fake", device="cpu", state=state)
        for n, state in enumerate([State.QUEUED, State.READY, State.FAILED, State.LOADING] * 50)
    )
    browser = browser_of(alice)
    with django_assert_max_num_queries(15):
        page = text(browser.get(path))
    assert page.count('class="card"') == cards.MOST_SHOWN + cards.LATEST_ENDED
    assert f"and {200 - cards.MOST_SHOWN - cards.LATEST_ENDED} more" in page


def test_a_start_is_measured_by_earlier_ones_of_its_model(alice, engine_in):
    for seconds in (10, 40, 1000):
        ready = engine_in(State.READY)
        Engine.objects.filter(pk=ready.pk).update(ready_at=ready.created_at + timedelta(seconds=seconds))
    engine = engine_in(State.LOADING)
    at = lambda seconds: cards.card(engine, alice, engine.created_at + timedelta(seconds=seconds))  # noqa: E731
    assert (at(15).usual_s, at(15).seconds, at(15).left_s) == (40, 15, 25)
    assert at(41).left_s is None
    assert [(phase.name, phase.done, phase.now) for phase in at(1).phases][-1] == ("loading", False, True)
    assert "fetching" not in [phase.name for phase in at(1).phases]
    container = Engine(state=State.LOADING, launcher="docker")
    assert [phase.name for phase in cards.phases(container)][:3] == ["fetching", "waiting", "starting"]
    container.download = {"bytes_done": 1}
    assert [phase.name for phase in cards.phases(container)][:3] == ["downloading the model", "fetching", "waiting"]
    assert cards.card(engine_in(State.LOADING, model="acme/other"), alice, NOW).usual_s is None


def test_a_log_is_called_a_part_only_where_it_is_one(browser_of, alice, engine_in, monkeypatch):
    engine = engine_in(State.READY)
    Engine.objects.update(served_max_model_len=32768)
    page = text(browser_of(alice).get(f"/engine/{engine.pk}"))
    assert "first and last parts" not in page
    assert "<dd>32,768 tokens</dd>" in page
    monkeypatch.setattr("engines.engine_logs.read", lambda engine: "first\n[…]\nlast")
    assert "first and last parts" in text(browser_of(alice).get(f"/engine/{engine.pk}"))


# Live


def test_a_card_leads_to_sharing_and_to_more_time_and_counts_down(browser_of, alice, engine_in):
    engine = engine_in(State.READY)
    page = text(browser_of(alice).get("/"))
    assert f'href="/engine/{engine.pk}#share"' in page
    assert "How long it stays<" in page
    assert "until its lease ends" not in page
    Engine.objects.update(lease_ends_at=timezone.now() + timedelta(hours=2, minutes=1))
    page = text(browser_of(alice).get("/"))
    assert "Extend<" in page
    assert ">2\xa0hours</time> until its lease ends" in page
    Engine.objects.update(used_at=timezone.now(), idle_minutes=61, wakes=False)
    assert ">1\xa0hour</time> until it stops" in text(browser_of(alice).get("/"))
    Engine.objects.update(wakes=True)
    assert ">1\xa0hour</time> until it sleeps" in text(browser_of(alice).get("/"))


def test_the_cards_alone_are_for_those_logged_in(db):
    assert Client().get("/cards").status_code == 401
    assert Client().get("/cards")["HX-Refresh"] == "true", "the page shows that one is logged out"
    assert Client().get("/cards/events").status_code == 401


def test_a_page_that_asks_for_pieces_of_itself_is_loaded_anew_where_there_is_none(browser_of, alice, engine_in):
    engine, asking = engine_in(State.READY), {"HX-Request": "true"}
    browser, path = browser_of(alice), f"/engine/{engine.pk}"
    answer = browser.get(path, headers=asking)
    assert "HX-Refresh" not in answer
    assert 'id="facts"' in text(answer)
    to_the_login = Client().get(path, headers=asking, follow=True)
    assert (to_the_login["HX-Refresh"], to_the_login.content) == ("true", b"")
    Engine.objects.update(state=State.STOPPED)
    answer = browser.get(path, headers=asking)
    assert (answer["HX-Refresh"], answer.content) == ("true", b"")
    assert "HX-Refresh" not in browser.get(path)


def test_the_cards_are_asked_for_more_often_while_a_start_counts_down(browser_of, alice, engine_in):
    engine_in(State.READY)
    assert "every 4s" not in text(browser_of(alice).get("/cards"))
    engine_in(State.LOADING)
    assert "every 4s" in text(browser_of(alice).get("/cards"))


def test_the_digest_changes_with_what_one_sees(alice, bob, engine_in):
    seen, others = [cards.digest(alice)], cards.digest(bob)
    engine = engine_in(State.LOADING)
    seen.append(cards.digest(alice))
    Engine.objects.filter(pk=engine.pk).update(detail="loading weights 45%")
    seen.append(cards.digest(alice))
    Engine.objects.filter(pk=engine.pk).update(state=State.FAILED)
    seen.append(cards.digest(alice))
    assert len(set(seen)) == 3
    assert seen[0] == seen[3]
    assert cards.digest(bob) == others


@pytest.mark.django_db(transaction=True)
def test_a_page_is_told_of_a_change_and_not_of_what(monkeypatch, people, engine_in):
    import asyncio

    from asgiref.sync import sync_to_async

    monkeypatch.setattr(cards_stream, "LOOK_S", 0.01)

    async def listen() -> list[bytes]:
        stream = cards_stream.changes(people["alice"])
        said = [await anext(stream)]
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.1)
        assert not waiting.done(), "nothing has changed yet"
        await sync_to_async(lent(engine_in))(State.QUEUED)
        said.append(await asyncio.wait_for(waiting, 5))
        await stream.aclose()
        return said

    assert asyncio.run(listen()) == [b"retry: 3000\n\n", b"event: changed\ndata:\n\n"]
    assert not cards_stream._open
    monkeypatch.setattr(cards_stream, "LONGEST_S", 0.05)

    async def last() -> bytes:
        return [event async for event in cards_stream.changes(people["alice"])][-1]

    assert asyncio.run(last()) == b"event: over\ndata:\n\n"


def test_one_user_cannot_take_all_streams(browser_of, alice, monkeypatch):
    monkeypatch.setitem(cards_stream._open, alice.pk, cards_stream.STREAMS)
    assert browser_of(alice).get("/cards/events").status_code == 429


# One engine


@pytest.mark.parametrize("state", [State.QUEUED, State.READY, State.STOPPING, State.STOPPED, State.FAILED])
def test_the_page_of_an_engine_offers_what_can_be_done(browser_of, alice, engine_in, fake, state):
    engine = engine_in(state)
    page = text(browser_of(alice).get(f"/engine/{engine.pk}"))
    assert ("/stop" in page) == (state in (State.QUEUED, State.READY))
    assert ("Start again" in page) == (state in (State.STOPPED, State.FAILED))
    assert f"/api/v1/engines/{engine.pk}/logs/stream" in page


@pytest.mark.parametrize("wrong", ["-" * 36, "00000000-0000-4000-8000-000000000000"])
def test_an_engine_that_is_not_there_is_404(browser_of, alice, wrong):
    assert browser_of(alice).get(f"/engine/{wrong}").status_code == 404
    assert browser_of(alice).post(f"/engine/{wrong}/stop").status_code == 404


def test_a_stop_is_what_the_api_does(browser_of, alice, engine_in):
    engine = engine_in(State.READY)
    assert browser_of(alice).get(f"/engine/{engine.pk}/stop").status_code == 405
    answer = browser_of(alice).post(f"/engine/{engine.pk}/stop")
    assert (answer.status_code, answer["Location"]) == (302, "/")
    engine.refresh_from_db()
    assert engine.state == State.STOPPING


def test_forms_from_other_sites_are_refused(alice, engine_in):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    engine = engine_in(State.READY)
    assert client.post(f"/engine/{engine.pk}/stop").status_code == 403
    assert client.post("/engine/new", {"model": "acme/tiny"}).status_code == 403


# The form of a start


def test_a_start_by_the_form_is_a_start(browser_of, alice):
    order = {"model": "acme/tiny", "max_model_len": "512", "tensor_parallel_size": "", "seed": "7", "shared": "true"}
    answer = browser_of(alice).post("/engine/new", order)
    engine = Engine.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/engine/{engine.pk}")
    assert (engine.owner, engine.model, engine.max_model_len, engine.seed) == (alice, "acme/tiny", 512, 7)
    assert (engine.tensor_parallel_size, engine.shared) == (1, True)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({}, "This field is required"),
        ({"model": "no such thing!"}, "model"),
        ({"model": "acme/tiny", "max_model_len": "many"}, "A valid integer is required"),
        ({"model": "acme/tiny", "max_model_len": "0"}, "greater than or equal to 1"),
        ({"model": "acme/tiny", "seed": "-1"}, "greater than or equal to 0"),
        ({"model": "acme/tiny", "quantization": "--x"}, "uantization"),
        ({"model": "a\x00b"}, "Null characters"),
    ],
)
def test_a_wrong_order_is_shown_again_with_what_is_wrong(browser_of, alice, order, said):
    page = text(browser_of(alice).post("/engine/new", {**order, "hugging_face_hub_token": "hf_secret"}), 400)
    assert 'role="alert"' in page
    assert said in page
    assert "hf_secret" not in page
    assert not Engine.objects.exists()


def test_one_engine_too_many_is_said(browser_of, alice, setting):
    setting(engines_per_user=0)
    assert "as many as allowed" in text(browser_of(alice).post("/engine/new", {"model": "acme/tiny"}), 400)


def test_start_again_fills_the_form_in_without_the_token(browser_of, alice, bob, engine_in):
    engine = engine_in(State.FAILED, model="acme/again", max_model_len=77, seed=5, quantization="fp8", hf_token="hf_x")
    page = text(browser_of(alice).get(f"/engine/new?again={engine.pk}"))
    for value in ('value="acme/again"', 'value="77"', 'value="5"', 'value="fp8"', "<details open"):
        assert value in page
    assert "hf_x" not in page
    assert "acme/again" not in text(browser_of(bob).get(f"/engine/new?again={engine.pk}"))
    for wrong in ("", "x", "-" * 36):
        assert text(browser_of(alice).get(f"/engine/new?again={wrong}"))


def test_start_again_puts_in_what_may_cure_it(browser_of, alice, engine_in):
    engine = engine_in(State.FAILED, model="acme/large", max_model_len=4096, seed=7)
    Engine.objects.filter(pk=engine.pk).update(change={"max_model_len": 1024, "seed": None})
    browser = browser_of(alice)
    for path in ("/", f"/engine/{engine.pk}"):
        assert "Start again with requests of up to 1,024 tokens, no seed" in text(browser.get(path))
    given = browser.get(f"/engine/new?again={engine.pk}").context["given"]
    assert (given["max_model_len"], "seed" in given) == (1024, False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tensor_parallel_size": 1}, "1 GPU"),
        ({"tensor_parallel_size": 2}, "2 GPUs"),
        ({"gpu_memory_utilization": 0.3}, "30% of each GPU's memory"),
        ({"adapters": [], "seed": 3}, "no adapters, seed 3"),
        (None, ""),
    ],
)
def test_a_cure_is_said_in_the_words_of_people(alice, engine_in, change, said):
    engine = engine_in(State.FAILED)
    engine.change = change
    assert cards.card(engine, alice, NOW).cure == said


def test_the_page_of_an_engine_tells_how_it_came_up(browser_of, alice, engine_in):
    engine = engine_in(State.LOADING)
    Engine.objects.filter(pk=engine.pk).update(phases=[["load", 4.0, "1.5 GiB"]])
    page = text(browser_of(alice).get(f"/engine/{engine.pk}"))
    assert "<li>loading the weights, still: 1.5 GiB</li>" in page
    assert set(cards.STEPS) >= {*starts._OF_STATES.values(), *(name for name, _ in timeline._BEGINS), "download"}


def test_models_are_completed_from_what_one_may_see(browser_of, alice, bob, engine_in):
    engine_in(State.STOPPED, model="alices/own")
    engine_in(State.READY, model="alices/shared", shared=True)
    assert "alices/own" in text(browser_of(alice).get("/engine/new"))
    page = text(browser_of(bob).get("/engine/new"))
    assert "alices/shared" in page
    assert "alices/own" not in page


def test_whether_it_fits_is_answered_while_one_types(browser_of, alice, tmp_path, setting):
    from tests.engines.fit.tiny import write_model

    setting(allowed_model_roots=[tmp_path], cpu_kv_cache_gib=1)
    folder = write_model(tmp_path / "tiny")
    page = text(browser_of(alice).post("/engine/fit", {"model": str(folder), "max_model_len": "64"}))
    assert "Requests of 64 tokens" in page
    assert "Name a model" in text(browser_of(alice).post("/engine/fit", {"model": " "}))
    for order in ({"model": "half a na"}, {"model": f"a/{HOSTILE}"}, {"model": "a/b", "seed": "x"}):
        page = text(browser_of(alice).post("/engine/fit", order))
        assert "fits unsure" in page
        assert HOSTILE not in page
    assert Client().post("/engine/fit", {"model": "a/b"}).status_code == 401
    assert not Engine.objects.exists()


@pytest.mark.parametrize("path", ["/engine/new", "/password", "/welcome"])
def test_pages_lead_to_the_login_first(db, path):
    answer = Client().get(path)
    assert (answer.status_code, answer["Location"]) == (302, f"/login/?next={path}")


def test_times_are_passed_in(alice, engine_in):
    engine = engine_in(State.QUEUED)
    assert cards.card(engine, alice, timezone.now() - timedelta(days=1)).seconds == 0
