"""Older files with other columns, and a portal that is not empty."""

import json

import pytest

from accounts.models import Role, TokenLimit, User
from inference import conversations
from inference.models import Conversation, ConversationCounter
from tests.legacy.original import CONVERSATIONS, USERS, Original, hashed, message

pytestmark = pytest.mark.django_db

OLD_CONVERSATIONS = "CREATE TABLE conversations (id INTEGER PRIMARY KEY, user_id, conversation_number, content TEXT)"
HELLO = [("human", "hello"), ("ai", "hi")]


def said(talk):
    return [(one.role, one.content) for one in talk.messages.all()]


def notes(report):
    return [line["why"] for line in report["notes"]]


def test_users_with_a_single_limit_and_other_columns(take_over, tmp_path):
    old = Original(
        tmp_path / "old",
        "CREATE TABLE users (id TEXT, username TEXT, hashed_password TEXT, token_limit INTEGER, available_models TEXT)",
        CONVERSATIONS,
    )
    old.insert("users", id="u-1", username="ann", hashed_password=hashed("x"), token_limit=77, available_models='["a"]')
    old.add_conversation("u-1", 1, *HELLO)
    code, report = take_over(files=old)
    limit = TokenLimit.objects.get(user__username="ann")
    assert (code, limit.gen_token_limit, limit.prompt_token_limit, limit.gen_token_number) == (0, 77, 10000, 0)
    assert "the portal has nothing like the column available_models: not taken over" in notes(report)
    assert conversations.turns(Conversation.objects.get()) == [("hello", "hi")]


def test_a_file_without_conversations(take_over, tmp_path):
    old = Original(tmp_path / "old", USERS)
    old.add_user("ann")
    assert take_over(files=old, memory=False)[0] == 0
    assert User.objects.get().username == "ann"


def test_a_file_without_users_whose_conversations_name_none(take_over, tmp_path):
    old = Original(tmp_path / "old", CONVERSATIONS)
    old.add_conversation(1, 1, *HELLO)
    code, report = take_over(files=old)
    assert (code, report["tables"]["message_store"]["skipped"], Conversation.objects.count()) == (1, 2, 0)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([json.loads(message(*one)) for one in HELLO]),
        json.dumps([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]),
        json.dumps({"messages": [{"type": "human", "content": "hello"}, {"type": "ai", "content": "hi"}]}),
        json.dumps([["hello", "hi"]]),
        json.dumps(json.dumps([json.loads(message(*one)) for one in HELLO])),
    ],
)
def test_conversations_that_hold_their_messages_themselves(take_over, tmp_path, content):
    old = Original(tmp_path / "old", USERS, OLD_CONVERSATIONS)
    old.insert("conversations", user_id=old.add_user("ann"), conversation_number=3, content=content)
    for _ in range(2):
        assert take_over(files=old)[0] == 0
        talk = Conversation.objects.get()
        assert (talk.number, talk.title, said(talk)) == (3, "hello", [("user", "hello"), ("assistant", "hi")])


@pytest.mark.parametrize("content", [None, "", "[]", "{}", "null", '""'])
def test_conversations_that_hold_nothing(take_over, tmp_path, content):
    old = Original(tmp_path / "old", USERS, OLD_CONVERSATIONS)
    old.insert("conversations", user_id=old.add_user("ann"), conversation_number=3, content=content)
    assert take_over(files=old)[0] == 0
    assert said(Conversation.objects.get()) == []


@pytest.mark.parametrize(("content", "kept"), [("[broken", 0), ("7", 0), ('[7, {"role": "user", "content": "x"}]', 1)])
def test_what_cannot_be_read_of_them_is_reported_and_the_rest_is_there(take_over, tmp_path, content, kept):
    old = Original(tmp_path / "old", USERS, OLD_CONVERSATIONS)
    old.insert("conversations", user_id=old.add_user("ann"), conversation_number=3, content=content)
    code, report = take_over(files=old)
    assert (code, len(report["problems"])) == (1, 1)
    assert len(said(Conversation.objects.get())) == kept


@pytest.mark.parametrize(
    ("own", "stored", "expected"),
    [
        (["a", "b"], ["a", "b", "c"], ["a", "b", "c"]),
        (["a", "b", "c"], ["a", "b"], ["a", "b", "c"]),
        (["a", "b"], ["c"], ["a", "b", "c"]),
    ],
)
def test_messages_in_both_places_are_joined(take_over, tmp_path, own, stored, expected):
    old = Original(tmp_path / "old", USERS, CONVERSATIONS, "ALTER TABLE conversations ADD COLUMN content TEXT")
    content = json.dumps([{"role": "user", "content": text} for text in own])
    old.add_conversation(old.add_user("ann"), 1, *[("human", text) for text in stored], content=content)
    assert take_over(files=old)[0] == 0
    assert [text for _, text in said(Conversation.objects.get())] == expected


def test_a_user_whom_the_portal_has_keeps_what_they_have_and_gets_their_conversations(original, take_over, alice, now):
    conversations.add_turn(conversations.start(alice, now), "mine", "yes", now)
    conversations.start(alice, now)
    there = original.add_user("alice", "another one", role="Admin", disabled=1, gen_token_limit=1, gen_token_number=5)
    first = original.add_conversation(there, 1, *HELLO)
    third = original.add_conversation(there, 3, *HELLO)
    for _ in range(2):
        assert take_over()[0] == 0
        alice.refresh_from_db()
        assert (alice.role, alice.is_active, alice.check_password("correct horse")) == (Role.USER, True, True)
        assert (alice.token_limit.gen_token_limit, alice.token_limit.gen_token_number) == (1000, 0)
        numbers = {talk.number: str(talk.conversation_id) for talk in Conversation.objects.filter(user=alice)}
        assert {number: numbers[number] for number in (3, 4)} == {3: third, 4: first}
        assert list(numbers) == [1, 2, 3, 4]
    assert ConversationCounter.objects.get(user=alice).last_number == 4


def test_update_overwrites_what_they_have(original, take_over, people, settings):
    settings.PASSWORD_HASHERS = [*settings.PASSWORD_HASHERS, "django.contrib.auth.hashers.BCryptPasswordHasher"]
    alice = people["alice"]
    version = alice.token_version
    original.add_user("alice", "another one", role="Admin", gen_token_limit=1, gen_token_number=5)
    assert take_over("--update", "--dry-run")[1]["tables"]["users"]["changed"] == 1
    alice.refresh_from_db()
    assert alice.role == Role.USER
    code, report = take_over("--update")
    alice.refresh_from_db()
    assert (code, report["tables"]["users"]["changed"], alice.role) == (0, 1, Role.ADMIN)
    assert alice.check_password("another one")
    assert alice.token_version > version, "what was logged in with the old password counts no longer"
    limit = TokenLimit.objects.get(user=alice)
    assert (limit.gen_token_limit, limit.gen_token_number) == (1, 5)


def test_update_twice_changes_nothing_the_second_time(original, take_over, people):
    original.add_user("alice", "another one")
    take_over("--update")
    assert take_over("--update")[1]["tables"]["users"] == {
        "read": 1, "new": 0, "present": 1, "changed": 0, "skipped": 0, "not_ours": 0,
    }  # fmt: skip


def test_update_leaves_the_portal_an_admin(original, take_over, people):
    original.add_user("root", role="User", disabled=1)
    _, report = take_over("--update")
    root = User.objects.get(username="root")
    assert (root.role, root.is_active) == (Role.ADMIN, True)
    assert "is the portal's only admin and stays one" in notes(report)


def test_a_conversation_id_that_is_somebody_elses_in_the_portal(original, take_over, alice, now):
    held = conversations.start(alice, now)
    original.add_conversation(original.add_user("eve"), 1, *HELLO, conversation_id=str(held.conversation_id))
    code, report = take_over()
    assert (code, report["tables"]["message_store"]["skipped"]) == (1, 2)
    assert said(Conversation.objects.get()) == []


def test_names_that_differ_by_case_are_two_people(original, take_over):
    for name in ("ann", "Ann"):
        original.add_conversation(original.add_user(name), 1, ("human", f"I am {name}"))
    code, report = take_over()
    assert code == 0
    assert {talk.user.username: said(talk)[0][1] for talk in Conversation.objects.all()} == {
        "ann": "I am ann", "Ann": "I am Ann",
    }  # fmt: skip
    assert "username differs from another user's by upper and lower case only" in notes(report)


def test_one_name_twice_is_one_person(take_over, tmp_path):
    old = Original(tmp_path / "old", USERS.replace(" UNIQUE", ""), CONVERSATIONS)
    first, second = old.add_user("ann", gen_token_limit=1), old.add_user("ann", gen_token_limit=2)
    old.add_conversation(first, 1, ("human", "one"))
    old.add_conversation(second, 1, ("human", "two"))
    for _ in range(2):
        code, report = take_over(files=old)
        assert (code, report["tables"]["users"]["skipped"]) == (1, 1)
        assert User.objects.get().token_limit.gen_token_limit == 1
        assert {talk.number: said(talk)[0][1] for talk in Conversation.objects.all()} == {1: "one", 2: "two"}


@pytest.mark.parametrize("name", ["ann ", "\uff41\uff4e\uff4e"])
def test_a_name_that_only_looks_like_anothers_gets_nothing_of_theirs(original, take_over, name):
    original.add_user("ann")
    original.add_conversation(original.add_user(name), 1, *HELLO)
    code, report = take_over()
    assert (code, User.objects.count(), Conversation.objects.count()) == (1, 1, 0)
    assert [line["table"] for line in report["problems"]] == ["users", "conversations", *["message_store"] * 2]


@pytest.mark.parametrize("name", [None, "", "  ", "x" * 151, "a\nb", b"\xff"])
def test_a_name_that_nobody_can_have(original, take_over, name):
    original.add_user(name)
    original.add_user("ann")
    code, report = take_over()
    assert (code, User.objects.get().username) == (1, "ann")
    assert report["problems"][0]["rowid"] == 1
