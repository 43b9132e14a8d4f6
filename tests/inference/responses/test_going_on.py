"""/v1/responses with previous_response_id: what the engine is told, and where the turn goes."""

import asyncio
import json
from functools import partial

from inference import conversations
from inference.models import Conversation, StoredResponse
from tests.fakes.responses import answering, got, message
from tests.fakes.upstream import RawEngine
from tests.inference.conftest import ready_engine
from tests.inference.responses.conftest import PATH
from tests.threads import at_once


def test_a_response_is_a_conversation_like_any_other(say, portal, alice, raw_engine, turns):
    answer = say(alice, "one")
    assert turns(alice) == [[("one", "answer to one")]]
    assert Conversation.objects.get().shown_name == "one"
    assert raw_engine.received[0].json["store"] is False
    listed = portal.get(alice, "/api/v1/conversations").json()["results"]
    assert [one["message_count"] for one in listed] == [2]
    assert answer["id"] == StoredResponse.objects.get().response_id


def test_it_goes_on_from_the_response_before(say, alice, raw_engine, turns):
    first = say(alice, "one")
    second = say(alice, "two", previous_response_id=first["id"])
    third = say(alice, "three", previous_response_id=second["id"])
    assert got(raw_engine) == [
        ("user", "one"), ("assistant", "answer to one"), ("user", "two"), ("assistant", "answer to two"),
        ("user", "three"),
    ]  # fmt: skip
    assert "previous_response_id" not in raw_engine.received[-1].json
    assert (second["previous_response_id"], third["previous_response_id"]) == (first["id"], second["id"])
    assert len({first["id"], second["id"], third["id"]}) == 3
    spoken = [(one, f"answer to {one}") for one in ("one", "two", "three")]
    assert turns(alice) == [spoken]


def test_instructions_are_not_carried_over(say, alice, raw_engine):
    first = say(alice, "one", instructions="Rhyme.")
    say(alice, "two", previous_response_id=first["id"])
    assert "instructions" not in raw_engine.received[-1].json
    assert "Rhyme" not in json.dumps(raw_engine.received[-1].json)


def test_an_older_response_branches_into_a_conversation_of_its_own(say, alice, raw_engine, turns):
    first = say(alice, "one")
    second = say(alice, "two", previous_response_id=first["id"])
    other = say(alice, "other", previous_response_id=first["id"])
    assert got(raw_engine) == [("user", "one"), ("assistant", "answer to one"), ("user", "other")]
    say(alice, "other still", previous_response_id=other["id"])
    assert [item[1] for item in got(raw_engine)] == ["one", "answer to one", "other", "answer to other", "other still"]
    say(alice, "three", previous_response_id=second["id"])
    assert [[prompt for prompt, _ in said] for said in turns(alice)] == [
        ["one", "two", "three"],
        ["one", "other", "other still"],
    ]
    assert [conversation.title for conversation in alice.conversations.all()] == ["one", "one"]


def test_a_branch_lives_on_when_what_it_came_from_is_deleted(say, portal, alice, raw_engine, turns):
    first = say(alice, "one")
    say(alice, "two", previous_response_id=first["id"])
    other = say(alice, "other", previous_response_id=first["id"])
    alice.conversations.get(number=1).delete()
    say(alice, "on", previous_response_id=other["id"])
    assert [item[1] for item in got(raw_engine)] == ["one", "answer to one", "other", "answer to other", "on"]
    assert portal.get(alice, f"{PATH}/{first['id']}").status_code == 404


def test_requests_that_go_on_from_one_response_at_once_are_all_kept_whole(
    portal, engine, alice, raw_engine, turns, limit
):
    limit(alice, prompt=10**6, generated=10**6)
    raw_engine.answer = answering()
    first = portal.post(alice, PATH, {"model": "tiny", "input": "one"}).json()
    all_are_here = asyncio.Event()
    arrived = []

    async def answer(request, writer):
        arrived.append(request)
        if len(arrived) == 3:
            all_are_here.set()
        await all_are_here.wait()
        await answering()(request, writer)

    raw_engine.answer = answer

    def ask(text):
        body = {"model": "tiny", "input": text, "previous_response_id": first["id"]}
        return portal.post(alice, PATH, body).status_code

    assert at_once(*[partial(ask, text) for text in ("a", "b", "c")]) == [200, 200, 200]
    said = turns(alice)
    assert sorted(len(one) for one in said) == [2, 2, 2]
    assert {one[0] for one in said} == {("one", "answer to one")}
    assert {one[1][0] for one in said} == {"a", "b", "c"}


def test_a_turn_of_llm_request_in_between_belongs_to_the_conversation(say, portal, alice, raw_engine, turns):
    """The response before it is the latest no longer: going on from that branches, and the turn is not in it."""
    first = say(alice, "one")
    conversations.add_turn(Conversation.objects.get(), "by llm_request", "yes", Conversation.objects.get().updated_at)
    say(alice, "two", previous_response_id=first["id"])
    assert [item[1] for item in got(raw_engine)] == ["one", "answer to one", "two"]
    assert [[prompt for prompt, _ in said] for said in turns(alice)] == [["one", "by llm_request"], ["one", "two"]]


def test_another_engine_goes_on_with_the_same_memory(say, alice, raw_engine):
    first = say(alice, "one")
    other = RawEngine(answering()).start()
    try:
        ready_engine(alice, other.port, model="other")
        say(alice, "two", previous_response_id=first["id"], model="other")
        assert got(other) == [("user", "one"), ("assistant", "answer to one"), ("user", "two")]
    finally:
        other.stop()


def test_calls_of_tools_and_their_results_go_along(say, alice, raw_engine, turns):
    call = {
        "id": "fc_1",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_1",
        "name": "weather",
        "namespace": None,
        "arguments": '{"city":"Rome"}',
    }
    thought = {"id": "rs_1", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    raw_engine.answer = answering(thought, call)
    first = say(alice, "Rome?")
    raw_engine.answer = answering(message("Sunny."))
    result = {"type": "function_call_output", "call_id": "call_1", "output": "sun"}
    second = say(alice, [result], previous_response_id=first["id"])
    assert got(raw_engine) == [("user", "Rome?"), call, result]
    say(alice, "Thanks", previous_response_id=second["id"])
    assert got(raw_engine) == [("user", "Rome?"), call, result, ("assistant", "Sunny."), ("user", "Thanks")]
    assert turns(alice) == [
        [("Rome?", 'weather({"city":"Rome"})'), ("sun", "Sunny."), ("Thanks", "Sunny.")],
    ]


def test_a_history_that_the_client_sends_itself_becomes_turns(say, alice, raw_engine, turns):
    history = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "two"},
    ]
    first = say(alice, history)
    assert raw_engine.received[0].json["input"] == history, "what the client sent, as it was"
    assert turns(alice) == [[("one", "first"), ("two", "answer to two")]]
    say(alice, "three", previous_response_id=first["id"])
    assert raw_engine.received[-1].json["input"] == [
        *history,
        {"role": "assistant", "content": "answer to two"},
        {"role": "user", "content": "three"},
    ]


def test_the_oldest_turns_stay_out_of_a_request_that_would_be_too_long(say, alice, raw_engine, turns):
    answer = say(alice, "question 0 " + "word " * 100)
    for number in range(1, 8):
        text = f"question {number} " + "word " * 100
        answer = say(alice, text, previous_response_id=answer["id"], max_output_tokens=50)
    sent = [text.split()[1] for role, text in got(raw_engine) if role == "user"]
    assert sent == [str(number) for number in range(8 - len(sent), 8)], "whole turns, the newest, in order"
    assert 1 < len(sent) < 8
    assert len(got(raw_engine)) == 2 * len(sent) - 1
    (said,) = turns(alice)
    assert len(said) == 8
    assert any(request.path == "/tokenize" for request in raw_engine.received)


def test_all_is_sent_where_the_client_wants_to_be_told(say, alice, raw_engine):
    answer = say(alice, "question 0 " + "word " * 1500)
    say(alice, "and now", previous_response_id=answer["id"], truncation="disabled")
    assert len(got(raw_engine)) == 3
