"""The store of conversations: numbers, turns, titles, retention, and two at once."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.models import User
from inference import conversations, tasks
from inference.models import Conversation, Message
from tests.threads import at_once
from vllm_portal.errors import NotFound

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def said(conversation):
    return [(message.role, message.content) for message in conversation.messages.all()]


# Turns


def test_a_turn_is_stored_whole_and_read_in_order(alice):
    conversation = conversations.start(alice, NOW)
    conversations.add_turn(conversation, "one", "first", NOW)
    conversations.add_turn(conversation, "two", "second", NOW + timedelta(seconds=1))
    assert conversations.turns(conversation) == [("one", "first"), ("two", "second")]
    conversation.refresh_from_db()
    assert conversation.updated_at == NOW + timedelta(seconds=1)


def test_a_turn_for_a_conversation_that_was_deleted_meanwhile_is_not_stored(alice):
    conversation = conversations.start(alice, NOW)
    Conversation.objects.all().delete()
    assert conversations.add_turn(conversation, "one", "first", NOW) is None
    assert not Message.objects.exists()


def test_a_turn_that_cannot_be_stored_changes_nothing(alice):
    conversation = conversations.start(alice, NOW)
    with pytest.raises(AttributeError):
        conversations.add_turn(conversation, "one", None, NOW + timedelta(days=1))
    conversation.refresh_from_db()
    assert (conversation.updated_at, conversation.title) == (NOW, "")


def test_a_message_without_its_counterpart_hides_no_turn(alice):
    conversation = conversations.start(alice, NOW)
    user, model = Message.Role.USER, Message.Role.ASSISTANT
    lines = [(model, "hello"), (user, "lost"), (user, "one"), (model, "first"), (model, "again"), (user, "last")]
    conversations.append(conversation, lines, NOW)
    assert conversations.turns(conversation) == [("one", "first")]


def test_null_characters_that_a_model_generates_are_left_out(alice):
    conversation = conversations.start(alice, NOW)
    conversations.add_turn(conversation, "o\x00ne", "fir\x00st", NOW)
    assert conversations.turns(conversation) == [("one", "first")]
    assert Conversation.objects.get().title == "one"


@pytest.mark.django_db(transaction=True)
def test_turns_that_end_at_once_are_all_stored_and_none_is_torn_apart(alice):
    conversation = conversations.start(alice, NOW)

    def talk(name):
        def work():
            for number in range(5):
                conversations.add_turn(conversation, f"{name}{number}", f"answer to {name}{number}", NOW)

        return work

    at_once(talk("a"), talk("b"), talk("c"))
    found = conversations.turns(conversation)
    assert [role for role, _ in said(conversation)] == ["user", "assistant"] * 15
    assert all(answer == f"answer to {prompt}" for prompt, answer in found)
    for name in "abc":
        assert [prompt for prompt, _ in found if prompt[0] == name] == [f"{name}{number}" for number in range(5)]


# Numbers, and the latest


@pytest.mark.django_db(transaction=True)
def test_conversations_started_at_once_have_numbers_of_their_own(alice):
    started = at_once(*[lambda: conversations.start(alice, NOW).number for _ in range(4)])
    assert sorted(started) == [1, 2, 3, 4]


@pytest.mark.django_db(transaction=True)
def test_two_first_prompts_at_once_meet_in_one_conversation(alice):
    assert conversations.find(alice, None) is None
    at_once(*[lambda: conversations.remember(alice, None, "one", "first", NOW) for _ in range(4)])
    assert conversations.turns(Conversation.objects.get()) == [("one", "first")] * 4


def test_the_first_turn_of_a_user_who_was_deleted_meanwhile_is_not_stored(alice):
    User.objects.get(pk=alice.pk).delete()
    assert conversations.remember(alice, None, "one", "first", NOW) is None
    assert not Conversation.objects.exists()


def test_a_first_turn_that_cannot_be_stored_leaves_no_conversation(alice):
    with pytest.raises(AttributeError):
        conversations.remember(alice, None, "one", None, NOW)
    assert not Conversation.objects.exists()


def test_the_latest_is_that_of_the_latest_turn_whatever_is_renamed(alice):
    old, new = conversations.start(alice, NOW), conversations.start(alice, NOW)
    conversations.add_turn(old, "one", "first", NOW + timedelta(seconds=1))
    conversations.rename(new, "mine")
    assert conversations.latest(alice) == old
    assert conversations.find(alice, 0) == old


def test_reading_the_latest_makes_none(alice):
    with pytest.raises(NotFound):
        conversations.latest(alice)
    assert not Conversation.objects.exists()


# Titles


def test_the_first_turn_gives_the_title_once(alice):
    conversation = conversations.start(alice, NOW)
    conversations.add_turn(conversation, "\n  What is\tthe capital?  \nOf France.", "Paris.", NOW)
    conversations.add_turn(conversation, "And of Spain?", "Madrid.", NOW)
    conversation.refresh_from_db()
    assert (conversation.name, conversation.title) == ("", "What is the capital?")
    assert conversation.shown_name == "What is the capital?"


def test_a_name_is_never_overwritten_and_an_empty_one_brings_the_title_back(alice):
    conversation = conversations.start(alice, NOW, "mine")
    conversations.add_turn(conversation, "What?", "That.", NOW)
    conversation.refresh_from_db()
    assert conversation.shown_name == "mine"
    conversations.rename(conversation, "")
    assert conversation.shown_name == "What?"


@pytest.mark.parametrize(
    ("prompt", "title"),
    [
        ("", ""),
        (" \n\t\n", ""),
        ("short", "short"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        ("word " * 12, "word " * 11 + "word"),
        ("word " * 13, "word " * 11 + "word…"),
        ("first line\nsecond line", "first line"),
    ],
)
def test_a_title_is_the_first_line_cut_at_a_word(prompt, title):
    assert conversations.title_of(prompt) == title


@settings(deadline=None)
@given(st.text())
def test_a_title_is_one_line_of_at_most_60_characters(prompt):
    title = conversations.title_of(prompt)
    assert len(title) <= 60
    assert len(title.splitlines()) <= 1
    assert title == title.strip()
    assert bool(title) == bool("".join(prompt.replace("\x00", "").split()))


# Retention


@pytest.fixture
def retention(monkeypatch):
    """retention(days): what the setting says, until the test ends."""
    from vllm_portal.config import get_config, read_config

    def change(days):
        monkeypatch.setattr(tasks, "get_config", lambda: read_config(conversation_retention_days=days))

    assert get_config().conversation_retention_days is None
    return change


def test_conversations_without_a_recent_turn_go_in_batches(alice, bob, retention, monkeypatch):
    monkeypatch.setattr(conversations, "BATCH", 2)
    now = datetime.now(UTC)
    for user in (alice, bob):
        for days in (40, 31, 30.5, 29, 0):
            conversation = conversations.start(user, now - timedelta(days=100))
            conversations.add_turn(conversation, "one", "first", now - timedelta(days=days))
    retention(30)
    tasks.delete_old_conversations()
    assert {number for number in alice.conversations.values_list("number", flat=True)} == {4, 5}
    assert {number for number in bob.conversations.values_list("number", flat=True)} == {4, 5}
    assert Message.objects.count() == 8


def test_without_the_setting_they_stay_for_ever(alice, retention):
    conversations.start(alice, NOW - timedelta(days=10_000))
    retention(None)
    tasks.delete_old_conversations()
    assert Conversation.objects.count() == 1


def test_the_deletion_is_asked_for_by_the_clock(settings):
    from vllm_portal.celery import app

    scheduled = settings.CELERY_BEAT_SCHEDULE["delete-old-conversations"]["task"]
    app.loader.import_default_modules()
    assert app.tasks[scheduled].name == tasks.delete_old_conversations.name
