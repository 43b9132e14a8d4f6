"""/v1/responses: which answers are kept, whole or streamed."""

import asyncio
import json

import pytest

from inference.models import Conversation, Message, StoredResponse
from tests.fakes.responses import answering, compact, event, got, message, response, streaming
from tests.fakes.upstream import STREAM_HEAD, chunk, whole
from tests.inference.responses.conftest import PATH


def test_what_is_not_to_be_stored_is_not(say, portal, alice, raw_engine):
    answer = say(alice, store=False)
    assert not Conversation.objects.exists()
    assert portal.get(alice, f"{PATH}/{answer['id']}").status_code == 404
    assert say(alice, previous_response_id=answer["id"], status=404)["error"]["code"] == "previous_response_not_found"


def test_going_on_without_storing_leaves_the_conversation_as_it_was(say, alice, raw_engine, turns):
    first = say(alice, "one")
    second = say(alice, "two", previous_response_id=first["id"], store=False)
    assert got(raw_engine)[-1] == ("user", "two")
    assert second["previous_response_id"] == first["id"]
    assert turns(alice) == [[("one", "answer to one")]]


def test_a_response_that_was_cut_off_by_its_limit_is_kept(say, alice, raw_engine, turns):
    raw_engine.answer = answering(message("cut o"), status="incomplete")
    say(alice, "one")
    assert turns(alice) == [[("one", "cut o")]]


@pytest.mark.parametrize("status", ["failed", "cancelled", "in_progress"])
def test_a_response_that_is_no_answer_is_not_kept(say, alice, raw_engine, status):
    raw_engine.answer = answering(message("x"), status=status)
    say(alice)
    assert not Conversation.objects.exists()


def test_an_error_is_not_kept(say, alice, raw_engine):
    error = {"error": {"message": "no", "type": "BadRequestError", "param": None, "code": 400}}
    raw_engine.answer = whole(compact(error), status=400)
    say(alice, status=400)
    assert not Conversation.objects.exists()


def test_the_ids_are_the_portals_own_whatever_the_engine_would_say(say, alice, raw_engine):
    first, second = say(alice, "one"), say(alice, "two")
    assert first["id"].startswith("resp_")
    assert first["id"] != second["id"]


def test_characters_that_a_database_does_not_take_are_no_failure(say, portal, alice, raw_engine, turns):
    raw_engine.answer = answering(message("nul \x00 answer"))
    first = say(alice, "nul \x00 prompt")
    assert turns(alice) == [[("nul  prompt", "nul  answer")]]
    say(alice, "on", previous_response_id=first["id"])
    assert got(raw_engine)[:2] == [("user", "nul \x00 prompt"), ("assistant", "nul \x00 answer")]


def events_of(answer):
    found = []
    for part in answer.text.strip().split("\n\n"):
        name, data = part.split("\n", 1)
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_stream_is_passed_on_as_it_comes_and_kept_at_its_end(portal, engine, alice, raw_engine, turns):
    raw_engine.answer = streaming("hel\n\nlo event: response.completed")
    answer = portal.post(alice, PATH, {"model": "tiny", "input": "one", "stream": True})
    found = events_of(answer)
    assert [name for name, _ in found] == ["response.created", "response.output_text.delta", "response.completed"]
    identity = found[-1][1]["response"]["id"]
    assert found[0][1]["response"]["id"] == identity == StoredResponse.objects.get().response_id
    assert turns(alice) == [[("one", "hel\n\nlo event: response.completed")]]
    body = portal.get(alice, f"{PATH}/{identity}").json()
    assert body == found[-1][1]["response"]


def test_a_stream_goes_on_from_a_response_and_names_it(say, portal, alice, raw_engine):
    first = say(alice, "one")
    raw_engine.answer = streaming()
    body = {"model": "tiny", "input": "two", "stream": True, "previous_response_id": first["id"]}
    found = events_of(portal.post(alice, PATH, body))
    assert [one["response"]["previous_response_id"] for _, one in found if "response" in one] == [first["id"]] * 2
    assert got(raw_engine) == [("user", "one"), ("assistant", "answer to one"), ("user", "two")]


def test_the_next_request_finds_a_streamed_response_at_once(portal, engine, alice, raw_engine):
    """The turn is stored before the client gets the end of its answer."""
    raw_engine.answer = streaming()
    previous = {}
    for _ in range(5):
        body = {"model": "tiny", "input": "on", "stream": True, **previous}
        with portal.post(alice, PATH, body, stream=True) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith(b"data: ") and b"response.completed" in line:
                    previous = {"previous_response_id": json.loads(line[6:])["response"]["id"]}
                    break
    assert Message.objects.count() == 10


def test_a_stream_that_breaks_off_leaves_nothing_behind(portal, engine, alice, raw_engine):
    raw_engine.answer = streaming(last=None, end=False)
    answer = portal.post(alice, PATH, {"model": "tiny", "input": "one", "stream": True})
    assert "error" in answer.text
    assert not Conversation.objects.exists()


def test_a_stream_that_ends_in_failure_leaves_nothing_behind(portal, engine, alice, raw_engine):
    raw_engine.answer = streaming(last="response.failed")
    portal.post(alice, PATH, {"model": "tiny", "input": "one", "stream": True})
    assert not Conversation.objects.exists()


def test_a_client_that_leaves_leaves_nothing_behind(portal, engine, alice, raw_engine, eventually):
    async def slowly(request, writer):
        begun = response(request.json, status="in_progress")
        writer.write(STREAM_HEAD + chunk(event("response.created", response=begun)))
        await writer.drain()
        await asyncio.Event().wait()

    raw_engine.answer = slowly
    body = {"model": "tiny", "input": "one", "stream": True}
    with portal.post(alice, PATH, body, stream=True) as reply:
        next(reply.iter_lines())
    eventually(lambda: raw_engine.closed_early == 1)
    assert not Conversation.objects.exists()
