"""/llm_request in a conversation: what of a history fits, two prompts at once, titles."""

import asyncio
import json
import threading
from datetime import UTC, datetime
from functools import partial

import pytest

from inference import conversations
from inference.models import Conversation, Message
from tests.fakes.upstream import completion, http, whole
from tests.threads import at_once, lent

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def ask(portal, engine):
    def ask(user, prompt="hi", path="/llm_request", **fields):
        body = {"model": "tiny", "prompt": prompt, **fields}
        return portal.post(user, path, body)

    return ask


def messages(raw_engine, at=-1):
    return [(one["role"], one["content"]) for one in raw_engine.received[at].json["messages"]]


def test_a_history_beyond_the_context_loses_its_oldest_turns_from_the_request_only(ask, alice, raw_engine):
    conversation = conversations.start(alice, NOW)
    for number in range(40):
        conversations.add_turn(conversation, f"question {number} " + "word " * 25, "answer " * 25, NOW)
    assert ask(alice, "now", memory=True).status_code == 200
    sent = messages(raw_engine)
    assert sent[0][0] == "system"
    assert sent[-1] == ("user", "now")
    kept = [content.split()[1] for role, content in sent[1:-1] if role == "user"]
    assert kept == [str(number) for number in range(40 - len(kept), 40)], "whole turns, the newest, in order"
    assert 0 < len(kept) < 40
    assert conversation.messages.count() == 82


def test_a_single_turn_that_is_larger_than_the_context_stays_out(ask, alice, raw_engine):
    conversation = conversations.start(alice, NOW)
    conversations.add_turn(conversation, "word " * 3000, "yes", NOW)
    assert ask(alice, "now", memory=True).status_code == 200
    assert messages(raw_engine) == [("system", "You are a helpful assistant."), ("user", "now")]
    assert conversation.messages.count() == 4


def test_a_huge_old_turn_takes_no_small_later_ones_with_it(ask, alice, raw_engine):
    conversation = conversations.start(alice, NOW)
    conversations.add_turn(conversation, "word " * 3000, "yes", NOW)
    for number in range(20):
        conversations.add_turn(conversation, str(number), "yes " * 5, NOW)
    assert ask(alice, "now", memory=True).status_code == 200
    assert [content for role, content in messages(raw_engine) if role == "user"] == [*map(str, range(20)), "now"]


def test_a_long_system_prompt_stays_and_history_makes_room_for_it(ask, alice, raw_engine):
    conversation = conversations.start(alice, NOW)
    for number in range(10):
        conversations.add_turn(conversation, f"{number} " + "word " * 60, "yes", NOW)
    system = "rule " * 380
    assert ask(alice, "now", memory=True, system=system).status_code == 200
    sent = messages(raw_engine)
    assert (sent[0], sent[-1]) == (("system", system), ("user", "now"))
    assert [content.split()[0] for role, content in sent[1:-1] if role == "user"] == ["8", "9"]


def test_a_long_prompt_gets_as_long_an_answer_as_there_is_room_for(ask, alice, raw_engine):
    assert ask(alice, "word " * 900).status_code == 200
    assert raw_engine.received[-2].path == "/tokenize"
    assert 100 <= raw_engine.received[-1].json["max_tokens"] <= 124


def test_a_prompt_that_is_larger_than_the_context_is_refused_in_the_engines_words(ask, alice, raw_engine):
    message = "This model's maximum context length is 1024 tokens. However, your prompt contains 2000 input tokens."
    error = {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}
    raw_engine.answer = whole(json.dumps({"error": error}).encode(), status=400)
    conversations.add_turn(conversations.start(alice, NOW), "one", "first", NOW)
    for more in ({}, {"stream": True}):
        answer = ask(alice, "word " * 2000, memory=True, **more)
        assert (answer.status_code, answer.json()) == (400, {"detail": message})
    assert Message.objects.count() == 2


def test_two_prompts_at_once_in_one_conversation_are_both_stored_whole(ask, alice, raw_engine, limit):
    """Each is answered from the history at its start; they are stored in the order in which they end."""
    limit(alice, prompt=10**6, generated=10**6)
    ask(alice, "one", memory=True)
    both, first_is_stored = threading.Barrier(2), threading.Event()

    async def answer(request, writer):
        prompt = request.json["messages"][-1]["content"]
        await asyncio.to_thread(both.wait, 10)
        if prompt == "slow":
            await asyncio.to_thread(first_is_stored.wait, 10)
        writer.write(http(completion(f"answer to {prompt}")))

    raw_engine.answer = answer
    results = {}

    def send(prompt):
        results[prompt] = ask(alice, prompt, memory=True, conversation_number=1).json()["data"]
        first_is_stored.set()

    at_once(partial(send, "slow"), partial(send, "fast"))
    assert results == {"slow": "answer to slow", "fast": "answer to fast"}
    said = conversations.turns(Conversation.objects.get())
    assert said == [("one", "hello"), ("fast", "answer to fast"), ("slow", "answer to slow")]
    for at in (-1, -2):
        assert [content for role, content in messages(raw_engine, at) if role == "user"][:-1] == ["one"]


def test_an_answer_for_a_conversation_that_was_deleted_meanwhile_is_given_and_not_stored(ask, alice, raw_engine):
    conversations.start(alice, NOW)

    async def answer(request, writer):
        await asyncio.to_thread(lent(Conversation.objects.all().delete))
        writer.write(http(completion()))

    raw_engine.answer = answer
    assert ask(alice, memory=True).json()["data"] == "hello"
    assert not Conversation.objects.exists()
    assert not Message.objects.exists()


def test_a_conversation_gets_its_title_from_the_first_prompt(ask, portal, alice):
    ask(alice, "What is the capital of France?\nBe brief.", memory=True)
    ask(alice, "And of Spain?", memory=True)
    named = portal.post(alice, "/db_request/get_user_conversations/", {}).json()
    assert named == {"conversations": [{"number": 1, "name": "What is the capital of France?"}]}
