"""An engine that is full: requests wait for their turn, and are told when it does not come."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from accounts import keys
from accounts.models import User
from inference import gateway as gateways
from inference.relay import Turns
from tests.fakes.upstream import completion, http
from tests.inference.ledger_seen import numbers, records, reserved
from vllm_portal.config import read_config

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


@pytest.fixture
def full(gateway, engine, raw_engine, eventually):
    """An engine that has two requests under way at once, and answers when it is told to."""
    gateway._at_once = 2

    class Full:
        def __init__(self) -> None:
            self.gateway = gateway
            self._go_on = threading.Semaphore(0)
            self.order: list[str] = []

        async def answer(self, request, writer) -> None:
            self.order.append(request.json["messages"][0]["content"])
            await asyncio.to_thread(self._go_on.acquire, timeout=15)
            writer.write(http(completion()))

        def answers(self, number: int) -> None:
            self._go_on.release(number)

        @property
        def line(self):
            (route,) = gateway.routes._by_id.values()
            return route.line

    full = Full()
    raw_engine.answer = full.answer
    eventually(lambda: gateway.routes._by_id and full.line._most == 2, timeout_s=10)
    yield full
    full.answers(1000)


@pytest.fixture
def ask(portal):
    """ask(user, text): the answer to come."""
    with ThreadPoolExecutor(32) as pool:

        def begin(headers, text: str, path: str = "/v1/chat/completions", **more):
            body = {**BODY, "messages": [{"role": "user", "content": text}], **more}
            return pool.submit(requests.post, portal.url + path, json=body, headers=headers, timeout=20)

        yield begin


def test_no_more_go_to_an_engine_than_it_takes_and_each_user_has_a_share(
    portal, full, ask, alice, bob, engine, eventually
):
    engine.__class__.objects.update(shared=True)
    alices, bobs = portal.headers(alice), portal.headers(bob)
    eventually(lambda: portal.get(bob, "/v1/models").json()["data"] != [], timeout_s=10)
    answers = [ask(alices, f"a{number}") for number in range(6)]
    eventually(lambda: len(full.order) == 2 and full.line.waiting == 4)
    answers.append(ask(bobs, "b"))
    eventually(lambda: full.line.waiting == 5)
    full.answers(1)
    eventually(lambda: len(full.order) == 3)
    assert full.order[2] == "b"
    full.answers(10)
    assert [answer.result().status_code for answer in answers] == [200] * 7
    eventually(lambda: len(records()) == 7 and reserved(alice) == reserved(bob) == [0, 0])


def test_with_weight_three_one_gets_three_times_the_tokens_and_a_change_needs_no_restart(
    portal, full, ask, alice, bob, root, engine, eventually
):
    engine.__class__.objects.update(shared=True)
    full.gateway._at_once = 1
    eventually(lambda: full.line._most == 1, timeout_s=10)
    alices, bobs, roots = (portal.headers(user) for user in (alice, bob, root))
    requests.get(portal.url + "/v1/models", headers=bobs, timeout=10)  # from now on he is known, with weight 1
    change = requests.patch(f"{portal.url}/api/v1/users/{bob.pk}", json={"weight": 3}, headers=roots, timeout=10)
    assert change.json()["weight"] == 3
    eventually(lambda: not full.gateway.callers._known)

    answers = [ask(roots, "r")]
    eventually(lambda: full.order == ["r"])
    answers += [ask(alices, "a") for _ in range(8)] + [ask(bobs, "b") for _ in range(20)]
    eventually(lambda: full.line.waiting == 28)
    full.answers(17)
    eventually(lambda: len(records()) == 17)
    assert (full.order[1:17].count("a"), full.order[1:17].count("b")) == (4, 12)
    assert numbers(bob)[1] == 3 * numbers(alice)[1] == 36
    full.answers(20)
    assert {answer.result().status_code for answer in answers} == {200}


@pytest.mark.parametrize("door", ["token", "key", "llm_request"])
def test_a_weight_counts_at_each_door(portal, full, ask, alice, engine, eventually, door):
    User.objects.filter(pk=alice.pk).update(weight=2.5)
    clear = keys.make(alice, {"name": "k"})[1] if door == "key" else None
    headers = {"Authorization": f"Bearer {clear}"} if clear else portal.headers(alice)
    answers = [ask(headers, "a") for _ in range(2)]
    eventually(lambda: len(full.order) == 2)
    if door == "llm_request":
        wish = {"model": "tiny", "inference_endpoint": f"/engines/{engine.pk}/v1", "prompt": "a", "max_tokens": 3}
        answers.append(ask(headers, "a", path="/llm_request", **wish))
    else:
        answers.append(ask(headers, "a"))
    eventually(lambda: full.line.waiting == 1)
    assert full.line._heap[0].weight == 2.5
    full.answers(3)
    assert [answer.result().status_code for answer in answers] == [200] * 3


def test_what_can_wait_goes_after_those_who_cannot(portal, full, ask, alice, eventually):
    headers = portal.headers(alice)
    answers = [ask(headers, "a") for _ in range(2)]
    eventually(lambda: len(full.order) == 2)
    for number, (text, more) in enumerate([("flex", {"service_tier": "flex"}), ("now", {"service_tier": "auto"})], 1):
        answers.append(ask(headers, text, **more))
        eventually(lambda number=number: full.line.waiting == number)
    full.answers(1)
    eventually(lambda: len(full.order) == 3)
    assert full.order[2] == "now"
    full.answers(10)
    assert [answer.result().status_code for answer in answers] == [200] * 4


def test_a_place_costs_what_is_reserved_for_it(portal, full, ask, alice, eventually):
    headers = portal.headers(alice)
    answers = [ask(headers, "a") for _ in range(2)]
    eventually(lambda: len(full.order) == 2)
    before = sum(reserved(alice))
    answers.append(ask(headers, "a", max_tokens=77))
    eventually(lambda: full.line.waiting == 1)
    assert full.line._heap[0].tokens == sum(reserved(alice)) - before > 77
    full.answers(10)
    assert [answer.result().status_code for answer in answers] == [200] * 3


@pytest.mark.parametrize(("processes", "each"), [(1, 6), (3, 2), (50, 1)])
def test_web_processes_share_the_room_of_an_engine_and_wait_as_configured(
    transactional_db, monkeypatch, processes, each
):
    config = read_config(
        engine_requests_at_once=6, web_processes=processes, engine_waiting_requests=7, engine_wait_seconds=8
    )
    monkeypatch.setattr(gateways, "get_config", lambda: config)

    async def started() -> tuple[int, Turns]:
        gateway = gateways.Gateway()
        await gateway.start()
        try:
            return gateway._at_once, gateway.relay._turns
        finally:
            await gateway.stop()

    assert asyncio.run(started()) == (each, Turns(7, 8))


def test_who_waits_for_too_long_is_told_when_to_come_again(portal, full, ask, alice, eventually):
    full.gateway.relay._turns = Turns(most_waiting=100, wait_s=0.2)
    answers = [ask(portal.headers(alice), "a") for _ in range(2)]
    eventually(lambda: len(full.order) == 2)
    refused = portal.chat(alice, max_tokens=3)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.headers["retry-after"] == "2"
    full.answers(2)
    assert [answer.result().status_code for answer in answers] == [200] * 2
    eventually(lambda: len(records()) == 2 and reserved(alice) == [0, 0])
    assert len(full.order) == 2


def test_a_line_is_bounded(portal, full, ask, alice, eventually):
    full.gateway.relay._turns = Turns(most_waiting=1, wait_s=60)
    answers = [ask(portal.headers(alice), "a") for _ in range(3)]
    eventually(lambda: full.line.waiting == 1)
    assert portal.chat(alice, max_tokens=3).status_code == 429
    full.answers(3)
    assert [answer.result().status_code for answer in answers] == [200] * 3


def test_who_leaves_while_waiting_pays_nothing(portal, full, ask, alice, eventually):
    headers = portal.headers(alice)
    answers = [ask(headers, "a") for _ in range(2)]
    eventually(lambda: len(full.order) == 2)
    with pytest.raises(requests.Timeout):
        requests.post(portal.url + "/v1/chat/completions", json=BODY, headers=headers, timeout=0.3)
    eventually(lambda: full.line.waiting == 0)
    full.answers(2)
    assert [answer.result().status_code for answer in answers] == [200] * 2
    eventually(lambda: len(records()) == 2 and reserved(alice) == [0, 0])
