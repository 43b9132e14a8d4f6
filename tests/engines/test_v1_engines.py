"""`/api/v1/engines` and `/api/v1/nodes`."""

import asyncio
from functools import partial

import pytest
from django.test import Client
from django.utils import timezone

from engines import engine_logs, idempotency, log_stream
from engines.models import Engine, Gpu, GpuLease, StartKey
from engines.states import State
from tests.threads import at_once, lent

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = "/api/v1/engines"


@pytest.fixture
def api(client_of, people):
    """api(name): a client that is logged in as that person."""
    return lambda name="alice": client_of(people[name])


def names(answer) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [row["name"] for row in answer.json()["results"]]


def test_a_start_is_accepted_at_once_and_says_where_it_goes_on(api):
    answer = api().post(ENGINES, {"model": "acme/tiny", "max_model_len": "512", "unknown": 1}, format="json")
    assert answer.status_code == 202
    engine = Engine.objects.get()
    assert answer["Location"] == f"http://testserver{ENGINES}/{engine.pk}"
    body = answer.json()
    assert (body["id"], body["state"], body["owner"], body["max_model_len"]) == (str(engine.pk), "QUEUED", "alice", 512)
    assert api().get(answer["Location"]).json() == body
    assert "port" not in body
    assert "hugging_face_hub_token" not in body


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model"),
        ({"model": "../etc"}, "model"),
        ({"model": 7}, "model"),
        ({"model": "acme/tiny", "max_model_len": -1}, "max_model_len"),
        ({"model": "acme/tiny", "seed": "x"}, "seed"),
        ({"model": "acme/tiny", "shared": "perhaps"}, "shared"),
    ],
)
def test_what_is_wrong_with_a_start_is_named_as_written(api, body, field):
    answer = api().post(ENGINES, body, format="json")
    assert (answer.status_code, list(answer.json())) == (400, [field])
    assert not Engine.objects.exists()


def test_everybody_lists_their_own_and_the_shared_ones_and_an_admin_all(api, engine_in, people):
    engine_in(State.READY, name="mine")
    engine_in(State.FAILED, owner=people["bob"], name="his")
    engine_in(State.READY, owner=people["bob"], name="ours", shared=True)
    assert sorted(names(api().get(ENGINES))) == ["mine", "ours"]
    assert sorted(names(api("root").get(ENGINES))) == ["his", "mine", "ours"]
    assert names(api("root").get(ENGINES, {"state": ["FAILED", "STOPPED"]})) == ["his"]
    assert names(api("root").get(ENGINES, {"owner": "bob", "ordering": "name"})) == ["his", "ours"]


def test_pages_hold_each_engine_once_though_their_order_has_ties(api, engine_in):
    for number in range(7):
        engine_in(State.READY, name=f"tiny-{number}")
    seen, address = [], f"{ENGINES}?limit=2&ordering=state"
    while address:
        answer = api().get(address)
        seen += names(answer)
        address = answer.json()["next"]
    assert sorted(seen) == [f"tiny-{number}" for number in range(7)]


@pytest.mark.parametrize("path", ["", "/events", "/logs", "/logs/stream"])
@pytest.mark.parametrize("engine_id", ["other", "00000000-0000-4000-8000-000000000000", "-" * 36])
def test_what_is_not_ones_own_is_not_there(api, engine_in, people, path, engine_id):
    other = engine_in(State.READY, owner=people["bob"])
    address = f"{ENGINES}/{other.pk if engine_id == 'other' else engine_id}{path}"
    assert api().get(address).status_code == 404
    if not path:
        assert api().delete(address).status_code == 404
        assert Engine.objects.get(pk=other.pk).desired == "run"


def test_a_shared_engine_is_seen_by_all_and_ended_and_read_by_its_owner(api, engine_in, people):
    shared = engine_in(State.READY, owner=people["bob"], shared=True)
    assert api().get(f"{ENGINES}/{shared.pk}").status_code == 200
    assert api().delete(f"{ENGINES}/{shared.pk}").status_code == 404
    assert api().get(f"{ENGINES}/{shared.pk}/logs").status_code == 404


def test_a_delete_ends_the_engine_and_a_second_one_is_no_error(api, fake, engine_in):
    engine = engine_in(State.READY)
    assert api().delete(f"{ENGINES}/{engine.pk}/").status_code == 202
    assert Engine.objects.get().desired == "stop"
    ended = engine_in(State.STOPPED)
    assert api().delete(f"{ENGINES}/{ended.pk}").status_code == 204


def test_events_tell_the_engines_life_in_order(api, engine_in):
    engine = engine_in(State.FAILED)
    events = api().get(f"{ENGINES}/{engine.pk}/events").json()["results"]
    assert events[0]["new_state"] == "QUEUED"
    assert events[-1]["new_state"] == "FAILED"


def test_the_log_is_text_with_a_tail_and_as_a_file(api, engine_in):
    engine = engine_in(State.LOADING)
    engine_logs.copy(engine, "one\ntwo\nthree hf_abcdefghijklmnop\n")
    address = f"{ENGINES}/{engine.pk}/logs"
    answer = api().get(address, headers={"accept": "application/json"})
    assert (answer.status_code, answer["content-type"]) == (200, "text/plain; charset=utf-8")
    assert answer.content.decode() == "one\ntwo\nthree ***\n"
    assert api().get(address, {"tail": 2}).content.decode() == "two\nthree ***\n"
    assert api().get(address, {"download": "true"})["content-disposition"].endswith(f'"{engine.name}.log"')
    assert api().get(address, {"tail": "many"}).status_code == 400


def test_a_log_can_be_searched_but_not_for_a_secret(api, engine_in):
    engine = engine_in(State.LOADING)
    engine_logs.copy(engine, "One\ntwo\nthree hf_abcdefghijklmnop\nanother one\n")
    address = f"{ENGINES}/{engine.pk}/logs"
    assert api().get(address, {"search": "ONE"}).content.decode() == "One\nanother one\n"
    assert api().get(address, {"search": "one", "tail": 1}).content.decode() == "another one\n"
    assert api().get(address, {"search": "abcdefghijklmnop"}).content.decode() == ""
    assert api().get(address, {"search": "x" * 201}).status_code == 400


# The same start twice


def test_the_same_key_is_the_same_engine(api):
    headers = {"idempotency-key": "abc"}
    first, second = [api().post(ENGINES, {"model": "acme/tiny"}, format="json", headers=headers) for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    assert "Idempotent-Replayed" not in first
    assert second["Idempotent-Replayed"] == "true"
    assert Engine.objects.count() == 1


def test_the_same_key_with_another_body_is_refused_and_another_users_key_is_another_key(api):
    headers = {"idempotency-key": "abc"}
    api().post(ENGINES, {"model": "acme/tiny"}, format="json", headers=headers)
    other = api().post(ENGINES, {"model": "acme/other"}, format="json", headers=headers)
    assert other.status_code == 422
    assert api("bob").post(ENGINES, {"model": "acme/tiny"}, format="json", headers=headers).status_code == 202
    assert Engine.objects.count() == 2


@pytest.mark.parametrize("key", ["", "with space", "x" * 256, "ü"])
def test_a_key_that_cannot_be_one_is_refused(api, key):
    answer = api().post(ENGINES, {"model": "acme/tiny"}, format="json", headers={"idempotency-key": key})
    assert (answer.status_code, list(answer.json())) == (400, ["Idempotency-Key"])


def test_two_starts_at_once_with_one_key_are_one_engine(api):
    def start(client):
        return client.post(ENGINES, {"model": "acme/tiny"}, format="json", headers={"idempotency-key": "k"})

    answers = at_once(*[partial(start, api()) for _ in range(4)])
    assert [answer.status_code for answer in answers] == [202] * 4
    assert len({answer.json()["id"] for answer in answers}) == Engine.objects.count() == 1


def test_after_a_day_a_key_is_free_again(api):
    headers = {"idempotency-key": "abc"}
    api().post(ENGINES, {"model": "acme/tiny"}, format="json", headers=headers)
    StartKey.objects.update(created_at=timezone.now() - idempotency.KEPT)
    api().post(ENGINES, {"model": "acme/other"}, format="json", headers=headers)
    assert Engine.objects.count() == 2
    assert idempotency.forget_old(timezone.now()) == 0
    StartKey.objects.update(created_at=timezone.now() - idempotency.KEPT)
    assert idempotency.forget_old(timezone.now()) == 1


# The log while it is written


def follow(engine, *texts, told=0, ended=True):
    """The events of a log that says these texts one after the other."""

    async def main():
        events = []
        stream = log_stream.follow(engine.pk, 1, told)
        for number, text in enumerate(texts):
            await asyncio.to_thread(lent(engine_logs.copy), engine, text)
            events.append(await asyncio.wait_for(anext(stream), 5))
            if number == len(texts) - 1 and ended:
                events.append(await asyncio.wait_for(anext(stream), 5))
        await stream.aclose()
        return [event.decode() for event in events]

    return asyncio.run(main())


def test_a_log_is_told_as_it_grows_and_ends_with_its_engine(engine_in):
    engine = engine_in(State.FAILED)
    assert follow(engine, "one\n", "one\ntwo\n") == [
        "id: 4\ndata: one\ndata: \n\n",
        "id: 8\ndata: two\ndata: \n\n",
        "event: end\ndata:\n\n",
    ]


def test_a_follower_who_comes_back_gets_the_rest(engine_in):
    engine = engine_in(State.FAILED)
    assert follow(engine, "one\ntwo\n", told=4)[0] == "id: 8\ndata: two\ndata: \n\n"


def test_a_log_that_began_anew_is_told_from_its_beginning(engine_in):
    engine = engine_in(State.FAILED)
    assert follow(engine, "abc\n", "quite another\n", ended=False) == [
        "id: 4\ndata: abc\ndata: \n\n",
        "event: gap\ndata:\n\n",
    ]


def test_nobody_follows_more_than_a_few_logs_at_once(engine_in):
    engine = engine_in(State.LOADING)
    engine_logs.copy(engine, "one\n")

    async def main():
        streams = [log_stream.follow(engine.pk, 5) for _ in range(log_stream.STREAMS)]
        for stream in streams:
            await anext(stream)
        with pytest.raises(log_stream.TooManyStreams):
            log_stream.follow(engine.pk, 5)
        for stream in streams:
            await stream.aclose()
        assert not log_stream._open
        await log_stream.follow(engine.pk, 5).aclose()

    asyncio.run(main())


def test_the_stream_is_served_as_events(api, engine_in):
    engine = engine_in(State.STOPPED)
    engine_logs.copy(engine, "one\n")
    answer = api().get(f"{ENGINES}/{engine.pk}/logs/stream", headers={"accept": "text/event-stream"})
    assert (answer.status_code, answer["content-type"]) == (200, "text/event-stream; charset=utf-8")

    async def read():
        return b"".join([piece async for piece in answer.streaming_content])

    assert asyncio.run(read()).endswith(b"event: end\ndata:\n\n")


# Machines


def test_a_node_names_its_gpus_and_tells_whose_they_are_to_those_who_may_know(api, engine_in, people):
    engine = engine_in(State.READY, owner=people["bob"], name="his")
    gpus = [
        Gpu.objects.create(uuid=f"GPU-{n}", index=n, name="X", memory_bytes=8, seen_at=timezone.now()) for n in range(2)
    ]
    GpuLease.objects.create(gpu=gpus[0], engine=engine)
    (node,) = api().get("/api/v1/nodes").json()["results"]
    whole = {"gpu_memory_share": 1.0}
    assert [gpu["engines"] for gpu in node["gpus"]] == [[{"name": "(another user's)", **whole}], []]
    assert node["engines"] == []
    (node,) = api("root").get("/api/v1/nodes/").json()["results"]
    assert node["gpus"][0]["engines"] == [{"name": "his", **whole}]
    assert api().get(f"/api/v1/nodes/{node['id']}").status_code == 200
    assert api().get("/api/v1/nodes/nowhere").status_code == 404


def test_the_browsable_api_starts_an_engine_by_its_form(people):
    browser = Client(enforce_csrf_checks=True, headers={"accept": "text/html"})
    browser.force_login(people["alice"])
    page = browser.get(ENGINES)
    assert page.status_code == 200
    assert b"acme" not in page.content
    token = browser.cookies["csrftoken"].value
    refused = browser.post(ENGINES, '{"model": "acme/tiny"}', content_type="application/json")
    assert refused.status_code == 403
    started = browser.post(
        ENGINES, '{"model": "acme/tiny"}', content_type="application/json", headers={"x-csrftoken": token}
    )
    assert started.status_code == 202
    assert b"acme/tiny" in started.content
