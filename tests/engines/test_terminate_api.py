"""POST /vllm_request/terminate."""

import json

import pytest

from engines import lifecycle
from engines.models import Engine
from engines.states import State
from tests.engines.conftest import NOW
from tests.threads import at_once
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

TERMINATE = "/vllm_request/terminate"


@pytest.fixture
def terminate(client_of, alice, setting):
    setting(stop_wait_seconds=0.0)
    return lambda container, user=alice, **more: client_of(user).post(
        TERMINATE, {"container_id": container, **more}, format="json"
    )


def test_it_waits_for_the_end(client_of, alice, engine_in, setting):
    engine = engine_in(State.READY)

    def end():
        row = wait_until(lambda: Engine.objects.filter(pk=engine.pk, state=State.STOPPING).first())
        return lifecycle.stopped(row, NOW)

    body = {"container_id": engine.container_id, "engine_name": engine.name, "username": "alice"}
    answer, _ = at_once(lambda: client_of(alice).post(TERMINATE, body, format="json"), end)
    assert answer.status_code == 200
    assert answer.json() == {"status": "terminated", "container_id": engine.container_id}


def test_an_end_that_takes_too_long_is_202_and_goes_on(terminate, engine_in, state_of):
    engine = engine_in(State.READY)
    answer = terminate(engine.container_id)
    assert answer.status_code == 202
    assert answer.json() == {"status": "terminating", "container_id": engine.container_id}
    assert state_of(engine) == State.STOPPING


@pytest.mark.parametrize("state", [State.STOPPED, State.FAILED])
def test_what_has_ended_is_no_error(terminate, engine_in, state):
    engine = engine_in(state)
    for _ in range(2):
        answer = terminate(engine.container_id)
        assert (answer.status_code, answer.json()["status"]) == (200, "terminated")


def test_two_at_once_are_no_error(client_of, alice, engine_in, setting):
    setting(stop_wait_seconds=0.0)
    engine = engine_in(State.READY)
    body = {"container_id": engine.container_id}
    answers = at_once(*[lambda: client_of(alice).post(TERMINATE, body, format="json")] * 4)
    assert {answer.status_code for answer in answers} == {202}
    assert engine.events.filter(new_state="STOPPING").count() == 1


@pytest.mark.parametrize("state", [State.QUEUED, State.PLACED, State.STARTING, State.LOADING, State.UNHEALTHY])
def test_an_engine_that_is_not_ready_can_be_ended_too(terminate, engine_in, state, state_of):
    engine = engine_in(state)
    assert terminate(engine.public_container_id).status_code == 202
    assert state_of(engine) == State.STOPPING


def test_all_that_names_an_engine_is_taken(terminate, engine_in):
    engine = engine_in(State.STOPPED, container_id="0123456789ab" + "c" * 52)
    names = [engine.container_id, engine.container_id[:12], engine.container_id[:32], engine.container_name]
    for name in [*names, str(engine.pk), engine.pk.hex]:
        answer = terminate(name)
        assert (answer.status_code, answer.json()) == (200, {"status": "terminated", "container_id": name})


def test_a_short_id_that_means_two_ends_neither(terminate, engine_in, state_of):
    engines = [engine_in(State.READY, container_id="0123456789ab" + digit * 52) for digit in "cd"]
    assert list(terminate("0123456789ab").json()) == ["container_id"]
    assert [state_of(engine) for engine in engines] == [State.READY] * 2
    assert terminate("0123456789abc").status_code == 202
    assert [state_of(engine) for engine in engines] == [State.STOPPING, State.READY]


def test_a_short_id_is_looked_for_among_ones_own(terminate, engine_in, bob, state_of):
    engine = engine_in(State.READY, container_id="0123456789ab" + "c" * 52)
    other = engine_in(State.READY, owner=bob, container_id="0123456789ab" + "d" * 52)
    assert terminate("0123456789ab").status_code == 202
    assert (state_of(engine), state_of(other)) == (State.STOPPING, State.READY)


@pytest.mark.parametrize("shared", [False, True])
def test_other_peoples_engines_are_404_by_every_name(terminate, engine_in, bob, state_of, shared):
    engine = engine_in(State.READY, owner=bob, shared=shared)
    for name in (engine.container_id, engine.container_id[:12], engine.container_name, str(engine.pk)):
        answer = terminate(name, username="bob")
        assert answer.status_code == 404
        assert list(answer.json()) == ["detail"]
    assert state_of(engine) == State.READY


def test_an_admin_ends_everybodys(terminate, engine_in, bob, root, state_of):
    engine = engine_in(State.READY, owner=bob)
    assert terminate(engine.container_id, user=root).status_code == 202
    assert state_of(engine) == State.STOPPING


@pytest.mark.parametrize(
    "name",
    [
        "postgres",
        "0" * 11,
        "f" * 64,
        "vllm-portal-",
        "vllm-portal-000000000000-1",
        "../../etc",
        "%",
        "_" * 12,
        "' OR 1=1",
    ],
)
def test_what_is_not_the_portals_is_404(terminate, engine_in, name):
    engine_in(State.READY, container_id="vllm-portal-x")
    assert terminate(name).status_code == 404


@pytest.mark.parametrize("name", ["someone-else", "tiny"])
def test_an_engine_name_that_does_not_fit_is_404(terminate, engine_in, state_of, name):
    engine = engine_in(State.READY)
    assert terminate(engine.container_id, engine_name=name).status_code == 404
    assert state_of(engine) == State.READY


@pytest.mark.parametrize("name", ["", None, "None"])
def test_an_engine_name_may_be_missing(terminate, engine_in, name):
    assert terminate(engine_in(State.READY).container_id, engine_name=name).status_code == 202


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "container_id"), ({"container_id": None}, "container_id"), ({"container_id": ""}, "container_id"),
        ({"container_id": 5}, "container_id"), ({"container_id": ["a"]}, "container_id"),
        ({"container_id": "x" * 101}, "container_id"), ({"container_id": "a\x00"}, "container_id"),
        ({"container_id": "\ud800"}, "container_id"),
        ({"container_id": "a", "engine_name": 5}, "engine_name"), ([], "detail"),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_field(client_of, alice, body, field):
    answer = client_of(alice).post(TERMINATE, json.dumps(body), content_type="application/json")
    assert answer.status_code == 400
    assert list(answer.json()) == [field]


def test_without_a_token_it_is_401(client, db):
    answer = client.post(TERMINATE + "/", {"container_id": "a"}, content_type="application/json")
    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
