"""/v1/responses/<id>: read and deleted by its user alone; and wrong requests."""

import asyncio

import openai
import pytest
import requests

from inference.models import Conversation, Message, StoredResponse
from tests.fakes.responses import answering, got, streaming
from tests.inference.conftest import ready_engine
from tests.inference.responses.conftest import PATH
from tests.threads import lent


def text_of(answer):
    return answer["output"][0]["content"][0]["text"]


@pytest.mark.parametrize("path", ["/v1/responses/{}", "/v1/responses/{}/", "/responses/{}"])
def test_a_response_is_read_again_as_its_client_got_it(say, portal, alice, path):
    first = say(alice, "one")
    second = say(alice, "two", previous_response_id=first["id"])
    for one in (first, second):
        answer = portal.get(alice, path.format(one["id"]))
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == one


def delete(portal, user, identity):
    return requests.delete(f"{portal.url}{PATH}/{identity}", headers=portal.headers(user), timeout=20)


def test_a_deleted_response_takes_its_turn_along(say, portal, alice, raw_engine, turns):
    first = say(alice, "one")
    second = say(alice, "two", previous_response_id=first["id"])
    answer = delete(portal, alice, first["id"])
    assert (answer.status_code, answer.json()) == (
        200,
        {"id": first["id"], "object": "response", "deleted": True},
    )
    assert delete(portal, alice, first["id"]).status_code == 404
    assert turns(alice) == [[("two", "answer to two")]]
    say(alice, "three", previous_response_id=second["id"])
    assert got(raw_engine) == [("user", "two"), ("assistant", "answer to two"), ("user", "three")]
    assert say(alice, previous_response_id=first["id"], status=404)["error"]["code"] == "previous_response_not_found"


def test_a_conversation_whose_last_turn_is_deleted_goes_with_it(say, portal, alice):
    assert delete(portal, alice, say(alice)["id"]).status_code == 200
    assert not Conversation.objects.exists()
    assert not Message.objects.exists()


def test_a_conversation_that_is_deleted_takes_its_responses_along(say, portal, alice):
    first = say(alice)
    Conversation.objects.get().delete()
    assert portal.get(alice, f"{PATH}/{first['id']}").status_code == 404
    assert say(alice, previous_response_id=first["id"], status=404)["error"]["param"] == "previous_response_id"


def test_what_is_deleted_while_the_engine_works_is_not_brought_back(say, portal, alice, raw_engine):
    first = say(alice, "one")

    async def answer(request, writer):
        await asyncio.to_thread(lent(delete), portal, alice, first["id"])
        await answering()(request, writer)

    raw_engine.answer = answer
    assert text_of(say(alice, "two", previous_response_id=first["id"])) == "answer to two"
    assert not Conversation.objects.exists()


@pytest.mark.parametrize("who", ["bob", "root"])
def test_other_peoples_responses_do_not_exist_for_admins_neither(say, portal, people, alice, who, raw_engine):
    first = say(alice, "one")
    other = people[who]
    ready_engine(other, raw_engine.port, name=f"of-{who}")
    assert portal.get(other, f"{PATH}/{first['id']}").status_code == 404
    assert delete(portal, other, first["id"]).status_code == 404
    error = say(other, previous_response_id=first["id"], status=404)["error"]
    assert error == {
        "message": f"Previous response with id '{first['id']}' not found.",
        "type": "invalid_request_error",
        "param": "previous_response_id",
        "code": "previous_response_not_found",
    }
    assert len(raw_engine.received) == 1
    assert StoredResponse.objects.count() == 1


@pytest.mark.parametrize("identity", ["x", "resp_", "%00", "%ff", "a/b", "x" * 3000])
def test_an_id_that_is_none_is_404_in_openais_shape(portal, engine, alice, identity):
    answer = portal.get(alice, f"{PATH}/{identity}")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert delete(portal, alice, identity).status_code == 404


def test_reading_needs_a_token_that_still_counts(say, portal, alice):
    first = say(alice)
    headers = portal.headers(alice)
    assert requests.get(f"{portal.url}{PATH}/{first['id']}", timeout=20).status_code == 401
    alice.is_active = False
    alice.save()
    assert requests.get(f"{portal.url}{PATH}/{first['id']}", headers=headers, timeout=20).status_code == 401


def test_other_methods_are_405(say, portal, alice):
    answer = portal.post(alice, f"{PATH}/{say(alice)['id']}", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", 5),
        ("previous_response_id", ["x"]),
        ("store", "yes"),
        ("store", 1),
        ("conversation", "conv_1"),
        ("input", 5),
        ("input", {"role": "user"}),
    ],
)
def test_a_field_of_the_wrong_type_is_400_by_name(say, alice, raw_engine, field, value):
    assert say(alice, status=400, **{field: value})["error"]["param"] == field
    assert not raw_engine.received


def test_a_previous_response_that_is_null_is_none(say, alice, raw_engine):
    say(alice, "one", previous_response_id=None, conversation=None, store=None)
    assert got(raw_engine) == "one"
    assert StoredResponse.objects.count() == 1


def test_the_official_client_keeps_a_conversation(portal, engine, alice, raw_engine):
    raw_engine.answer = answering()
    key = portal.headers(alice)["Authorization"].removeprefix("Bearer ")
    with openai.OpenAI(base_url=f"{portal.url}/v1", api_key=key, max_retries=0) as client:
        first = client.responses.create(model="tiny", input="one")
        second = client.responses.create(model="tiny", input="two", previous_response_id=first.id)
        assert (first.output_text, second.output_text) == ("answer to one", "answer to two")
        assert second.previous_response_id == first.id
        assert client.responses.retrieve(second.id).output_text == "answer to two"
        raw_engine.answer = streaming("streamed")
        with client.responses.create(
            model="tiny", input="three", previous_response_id=second.id, stream=True
        ) as stream:
            last = [one for one in stream if one.type == "response.completed"][-1].response
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)
        assert client.responses.retrieve(last.id).output_text == "streamed"
        with pytest.raises(openai.NotFoundError, match="Previous response with id 'resp_x' not found"):
            client.responses.create(model="tiny", input="x", previous_response_id="resp_x")
