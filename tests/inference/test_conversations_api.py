"""/db_request/…: the documented endpoints about conversations."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from inference import conversations
from inference.models import Conversation, Message

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
SECRET = "the launch code is 0000"

CALLS = {
    "add_conversation": "post",
    "delete_conversation": "delete",
    "retrieve_conversation": "post",
    "retrieve_latest_conversation": "post",
    "update_conversation_name": "post",
    "retrieve_all_conversations": "post",
    "get_user_conversations": "post",
}
READING = ["retrieve_conversation", "retrieve_latest_conversation"]


@pytest.fixture
def call(client_of):
    """call(user, "add_conversation", …fields): (status, body)."""

    def call(user, name, slash="/", **fields):
        send = getattr(client_of(user), CALLS[name])
        answer = send(f"/db_request/{name}{slash}", json.dumps(fields), content_type="application/json")
        return answer.status_code, answer.json()

    return call


def talk(user, prompt="one", answer="first", now=NOW, name=""):
    conversation = conversations.start(user, now, name)
    conversations.add_turn(conversation, prompt, answer, now)
    return conversation


# Each endpoint


@pytest.mark.parametrize("slash", ["/", ""])
def test_a_conversation_is_added_with_the_next_number(call, alice, slash):
    status, body = call(alice, "add_conversation", slash, conversation_name="Plans", username="ignored")
    conversation = Conversation.objects.get(user=alice)
    assert (status, set(body)) == (200, {"message", "conversation_id", "conversation_number"})
    assert (body["conversation_id"], body["conversation_number"]) == (str(conversation.conversation_id), 1)
    assert conversation.name == "Plans"
    assert call(alice, "add_conversation", slash)[1]["conversation_number"] == 2


@pytest.mark.parametrize("name", [None, "", "   "])
def test_a_conversation_needs_no_name(call, alice, name):
    assert call(alice, "add_conversation", conversation_name=name)[0] == 200
    assert Conversation.objects.get().name == ""


@pytest.mark.parametrize("slash", ["/", ""])
@pytest.mark.parametrize("number", [1, "1", " 1 "])
def test_a_deleted_conversation_is_gone_and_its_number_not_used_again(call, alice, number, slash):
    talk(alice)
    status, body = call(alice, "delete_conversation", slash, conversation_number=number)
    assert (status, set(body)) == (200, {"message"})
    assert not Conversation.objects.exists()
    assert not Message.objects.exists()
    assert call(alice, "delete_conversation", conversation_number=1)[0] == 404
    assert call(alice, "add_conversation")[1]["conversation_number"] == 2


@pytest.mark.parametrize("slash", ["/", ""])
def test_a_conversation_is_retrieved_with_what_was_said(call, alice, slash):
    conversation = talk(alice)
    talk(alice, "other")
    assert call(alice, "retrieve_conversation", slash, conversation_number="1") == (
        200,
        {
            "user_id": str(alice.pk),
            "conversation_number": 1,
            "timestamp": "2030-01-01T12:00:00Z",
            "conversation_name": "one",
            "conversation_id": str(conversation.conversation_id),
            "messages": [
                {"role": "user", "content": "one", "timestamp": "2030-01-01T12:00:00Z"},
                {"role": "assistant", "content": "first", "timestamp": "2030-01-01T12:00:00Z"},
            ],
        },
    )


@pytest.mark.parametrize("fields", [{}, *[{"conversation_number": number} for number in (None, 0, -1, "-1")]])
def test_without_a_number_the_latest_is_retrieved(call, alice, fields):
    talk(alice, "later", now=NOW + timedelta(hours=1))
    talk(alice, "earlier")
    status, body = call(alice, "retrieve_conversation", **fields)
    assert (status, body["conversation_number"]) == (200, 1)


@pytest.mark.parametrize("slash", ["/", ""])
def test_the_latest_is_retrieved(call, alice, slash):
    talk(alice, "later", now=NOW + timedelta(hours=1))
    talk(alice, "earlier")
    status, body = call(alice, "retrieve_latest_conversation", slash)
    assert (status, body["conversation_number"], body["messages"][0]["content"]) == (200, 1, "later")


@pytest.mark.parametrize("name", READING)
def test_reading_the_latest_where_there_is_none_is_404_and_makes_none(call, alice, name):
    status, body = call(alice, name)
    assert (status, list(body)) == (404, ["detail"])
    assert not Conversation.objects.exists()


@pytest.mark.parametrize("slash", ["/", ""])
def test_a_conversation_is_renamed(call, alice, slash):
    talk(alice)
    given = {"conversation_number": "1", "conversation_name": "Mine"}
    assert call(alice, "update_conversation_name", slash, **given) == (200, {"success": True})
    assert Conversation.objects.get().name == "Mine"


@pytest.mark.parametrize("slash", ["/", ""])
def test_numbers_and_names_are_listed(call, alice, bob, slash):
    talk(alice)
    talk(alice, name="Plans")
    talk(bob)
    assert call(alice, "retrieve_all_conversations", slash) == (200, {"conversation_numbers": [1, 2]})
    named = [{"number": 1, "name": "one"}, {"number": 2, "name": "Plans"}]
    assert call(alice, "get_user_conversations", slash) == (200, {"conversations": named})


def test_nobody_without_conversations_is_told_of_any(call, alice):
    assert call(alice, "retrieve_all_conversations") == (200, {"conversation_numbers": []})
    assert call(alice, "get_user_conversations") == (200, {"conversations": []})


# What is wrong


@pytest.mark.parametrize("name", ["delete_conversation", "retrieve_conversation", "update_conversation_name"])
@pytest.mark.parametrize("number", ["three", 1.5, True, [], {}, -2, 10**30, "1.0", ""])
def test_a_number_that_is_none_is_400_by_name(call, alice, name, number):
    talk(alice)
    status, body = call(alice, name, conversation_number=number, conversation_name="x")
    assert (status, list(body)) == (400, ["conversation_number"])
    assert Conversation.objects.get().name == ""


@pytest.mark.parametrize("name", ["delete_conversation", "update_conversation_name"])
def test_a_number_that_is_needed_is_400_by_name_when_missing(call, alice, name):
    status, body = call(alice, name, conversation_name="x")
    assert (status, list(body)) == (400, ["conversation_number"])


@pytest.mark.parametrize("value", [5, None, ["x"], "x" * 201, "nul\x00", "\ud800"])
def test_a_name_that_is_none_is_400_by_name(call, alice, value):
    talk(alice)
    status, body = call(alice, "update_conversation_name", conversation_number=1, conversation_name=value)
    assert (status, list(body)) == (400, ["conversation_name"])
    if value is not None:
        assert call(alice, "add_conversation", conversation_name=value)[0] == 400
    assert Conversation.objects.count() == 1


@pytest.mark.parametrize("name", ["delete_conversation", "retrieve_conversation", "update_conversation_name"])
@pytest.mark.parametrize("number", [2, 99, 2**31 - 1])
def test_unknown_and_other_peoples_conversations_are_404(call, alice, bob, name, number):
    talk(alice)
    talk(bob)
    talk(bob, "a second one", name="kept")
    status, body = call(alice, name, conversation_number=number, conversation_name="taken", username="bob")
    assert (status, list(body)) == (404, ["detail"])
    assert bob.conversations.get(number=2).name == "kept"


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("name", ["delete_conversation", "update_conversation_name"])
def test_the_latest_is_neither_deleted_nor_renamed_by_not_naming_it(call, alice, name, number):
    talk(alice, name="kept")
    assert call(alice, name, conversation_number=number, conversation_name="x")[0] == 404
    assert Conversation.objects.get().name == "kept"


@pytest.mark.parametrize("name", CALLS)
def test_without_a_token_it_is_401_and_the_wrong_method_405(client, client_of, alice, name):
    answer = client.generic(CALLS[name].upper(), f"/db_request/{name}/", "{}", content_type="application/json")
    assert (answer.status_code, answer["www-authenticate"]) == (401, "Bearer")
    assert client_of(alice).get(f"/db_request/{name}/").status_code == 405


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("data", ["[]", "{", '"x"', "\xff"])
def test_a_body_that_is_no_object_is_400(client_of, alice, name, data):
    send = client_of(alice).generic
    assert send(CALLS[name].upper(), f"/db_request/{name}/", data, "application/json").status_code == 400


# Other people


@pytest.mark.parametrize("name", CALLS)
def test_a_name_in_the_body_selects_nobody_else(call, alice, bob, name):
    talk(bob, SECRET, name="bobs")
    body = call(alice, name, username="bob", conversation_number=1, conversation_name="x")[1]
    assert SECRET not in json.dumps(body)
    assert "bobs" not in json.dumps(body)
    assert [one.name for one in bob.conversations.all()] == ["bobs"]


def test_an_admin_acts_for_another(call, root, alice):
    assert call(root, "add_conversation", username="alice", conversation_name="Plans")[0] == 200
    assert call(root, "retrieve_all_conversations", username="alice")[1] == {"conversation_numbers": [1]}
    assert call(root, "get_user_conversations", username="alice")[1]["conversations"][0]["name"] == "Plans"
    given = {"username": "alice", "conversation_number": 1}
    assert call(root, "update_conversation_name", **given, conversation_name="Other")[0] == 200
    assert alice.conversations.get().name == "Other"
    assert call(root, "delete_conversation", **given)[0] == 200
    assert not root.conversations.exists()
    assert not alice.conversations.exists()


def test_an_admin_sees_nothing_of_what_another_said_not_even_in_a_title(call, client_of, root, alice):
    talk(alice, SECRET, SECRET)
    assert Conversation.objects.get().title == SECRET
    for name in reversed(CALLS):  # the names are read before one is changed
        if name not in ("add_conversation", "delete_conversation"):
            given = {"username": "alice", "conversation_number": 1, "conversation_name": "x"}
            assert SECRET not in json.dumps(call(root, name, **given)[1])
    for name in READING:
        status, body = call(root, name, username="alice")
        assert (status, list(body)) == (403, ["detail"])
    for path in ("get_all_users", "get_all_data"):
        people = client_of(root).get(f"/db_request/{path}/").json()
        theirs = next(person for person in people if person["username"] == "alice")
        assert [one["number"] for one in theirs["conversations"]] == [1]
        assert SECRET not in json.dumps(people)


def test_an_admin_reads_their_own_also_when_they_name_themselves(call, root):
    talk(root, "mine")
    for name in READING:
        assert call(root, name, username="root")[1]["messages"][0]["content"] == "mine"


@pytest.mark.parametrize("name", CALLS)
def test_an_admin_who_names_nobody_there_is_gets_404(call, root, name):
    assert call(root, name, username="nobody", conversation_number=1, conversation_name="x")[0] == 404


@pytest.mark.parametrize("name", CALLS)
def test_a_username_of_the_wrong_type_is_400_by_name(call, root, name):
    body = call(root, name, username=5, conversation_number=1, conversation_name="x")[1]
    assert list(body) == ["username"]
