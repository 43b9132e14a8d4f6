"""Whom an engine is shared with, as the data plane takes it: from the next request on, given and taken away."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import requests
from django.contrib.auth.models import Group

from accounts import keys
from tests.accounts.test_admin import admin, form_of, save
from tests.fakes.upstream import STREAM_HEAD, chunk, event, last_event, sse

__all__ = ["admin"]


@pytest.fixture
def share(portal, alice, engine):
    """share(…): what alice changes by the API."""

    def change(**given) -> None:
        address = f"{portal.url}/api/v1/engines/{engine.pk}"
        answer = requests.patch(address, json=given, headers=portal.headers(alice), timeout=20)
        assert answer.status_code == 200, answer.text

    return change


def status(portal, user, **body) -> int:
    return portal.chat(user, max_tokens=5, **body).status_code


def by_id(portal, user, engine) -> int:
    body = {"model": "tiny", "messages": [], "max_tokens": 5}
    return portal.post(user, f"/engines/{engine.pk}/v1/chat/completions", body).status_code


def models(portal, user) -> list[str]:
    return [one["id"] for one in portal.get(user, "/v1/models").json()["data"]]


def test_who_is_named_may_ask_with_the_next_request_and_then_no_longer(portal, share, alice, bob, engine, eventually):
    assert (status(portal, bob), by_id(portal, bob, engine), models(portal, bob)) == (404, 404, [])
    share(shared_users=["bob"])
    assert status(portal, bob) == 200  # what is not known is looked up
    assert (status(portal, bob, model=engine.name), by_id(portal, bob, engine)) == (200, 200)
    assert models(portal, bob) == ["tiny"]
    share(shared_users=[])
    eventually(lambda: models(portal, bob) == [])
    assert (status(portal, bob), status(portal, bob, model=engine.name), by_id(portal, bob, engine)) == (404, 404, 404)
    assert status(portal, alice) == 200


def test_a_member_of_a_group_may_ask_until_an_admin_takes_them_out(portal, share, admin, alice, bob, eventually):
    group = Group.objects.create(name="nlp")
    share(shared_groups=["nlp"])
    assert status(portal, bob) == 404
    save(admin, bob, form_of(admin, bob), groups=[group.pk])
    assert status(portal, bob) == 200
    save(admin, bob, form_of(admin, bob), groups=[])
    eventually(lambda: status(portal, bob) == 404)


def test_a_key_for_other_models_gets_no_further_by_sharing(portal, share, bob):
    share(shared_users=["bob"])
    for named, expected in (("other", 404), ("tiny", 200)):
        _, clear = keys.make(bob, {"name": named, "scopes": ["inference"], "allowed_models": [named]})
        body = {"model": "tiny", "messages": [], "max_tokens": 5}
        headers = {"Authorization": f"Bearer {clear}"}
        answer = requests.post(f"{portal.url}/v1/chat/completions", json=body, headers=headers, timeout=20)
        assert answer.status_code == expected


def test_an_answer_that_has_begun_goes_on(portal, share, bob, raw_engine, eventually):
    end = Event()

    async def until_told(request, writer) -> None:
        writer.write(STREAM_HEAD + chunk(sse(event("hel", 7, 1))))
        await asyncio.to_thread(end.wait, 20)
        writer.write(chunk(sse(last_event(7, 1), b"[DONE]")) + b"0\r\n\r\n")

    share(shared_users=["bob"])
    raw_engine.answer = until_told
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(portal.chat, bob, stream=True, max_tokens=5)
        try:
            eventually(lambda: raw_engine.received)
            share(shared_users=[])
            eventually(lambda: models(portal, bob) == [])
        finally:
            end.set()
        assert under_way.result(20).content.endswith(b"data: [DONE]\n\n")


def test_what_users_share_has_their_prefixes_apart(portal, share, alice, bob, raw_engine):
    """The owner's too: what is cached of one must not be told by its speed to another."""
    share(shared_users=["bob"])
    assert (status(portal, bob), status(portal, alice)) == (200, 200)
    his, hers = (one.json["cache_salt"] for one in raw_engine.received)
    assert his != hers
