"""/api/v1/conversations: read, rename, delete, take along."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest

from inference import conversations
from inference.models import Conversation

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
PATH = "/api/v1/conversations"
SECRET = "the launch code is 0000"
NOBODYS = "1b4e28ba-2fa1-4d3b-a3f5-ef19b5a7633b"


def talk(user, prompt="one", answer="first", minutes=0, name=""):
    now = NOW + timedelta(minutes=minutes)
    conversation = conversations.start(user, now, name)
    conversations.add_turn(conversation, prompt, answer, now)
    return conversation


def path(conversation, rest=""):
    return f"{PATH}/{conversation.conversation_id}{rest}"


@pytest.mark.parametrize("slash", ["/", ""])
def test_the_list_has_the_latest_turn_first_and_no_content(client_of, alice, bob, slash):
    first = talk(alice, "one", SECRET)
    talk(alice, "two", SECRET, minutes=1, name="Plans")
    talk(bob)
    body = client_of(alice).get(f"{PATH}{slash}").json()
    assert (body["next"], body["previous"]) == (None, None)
    assert [(one["number"], one["name"], one["message_count"]) for one in body["results"]] == [
        (2, "Plans", 2),
        (1, "one", 2),
    ]
    assert body["results"][1] == {
        "id": str(first.conversation_id),
        "number": 1,
        "name": "one",
        "created_at": "2030-01-01T12:00:00Z",
        "updated_at": "2030-01-01T12:00:00Z",
        "message_count": 2,
    }
    assert SECRET not in json.dumps(body)


def test_the_list_is_paged_without_loss_also_where_times_are_the_same(client_of, alice):
    for _ in range(7):
        talk(alice)
    client, url, seen = client_of(alice), f"{PATH}?limit=2", []
    while url:
        body = client.get(url).json()
        seen += [one["number"] for one in body["results"]]
        url = body["next"]
    assert seen == [7, 6, 5, 4, 3, 2, 1]


def test_the_list_is_ordered_as_asked(client_of, alice):
    for minutes in (5, 1, 3):
        talk(alice, minutes=minutes)
    conversations.add_turn(alice.conversations.get(number=2), "again", "yes", NOW)

    def numbers(ordering):
        return [one["number"] for one in client_of(alice).get(PATH, {"ordering": ordering}).json()["results"]]

    assert numbers("number") == [1, 2, 3]
    assert numbers("-number") == [3, 2, 1]
    assert numbers("created_at") == [2, 3, 1]
    assert numbers("-message_count,number") == [2, 1, 3]
    assert numbers("user__password") == numbers("")


def test_names_and_titles_are_searched(client_of, alice, bob):
    talk(alice, "holiday in Spain")
    talk(alice, "tax", "holiday", minutes=1, name="Work")
    talk(bob, "holiday in France")
    results = client_of(alice).get(PATH, {"search": "HOLIDAY"}).json()["results"]
    assert [one["number"] for one in results] == [1]
    assert [one["number"] for one in client_of(alice).get(PATH, {"search": "work"}).json()["results"]] == [2]


@pytest.mark.parametrize("slash", ["/", ""])
def test_one_is_retrieved_with_what_was_said(client_of, alice, slash):
    body = client_of(alice).get(path(talk(alice), slash)).json()
    assert [(one["role"], one["content"]) for one in body["messages"]] == [("user", "one"), ("assistant", "first")]
    assert (body["number"], body["name"], body["message_count"]) == (1, "one", 2)


def test_a_conversation_is_made(client_of, alice):
    answer = client_of(alice).post(PATH, {"name": "Plans", "number": 77}, format="json")
    body = answer.json()
    assert (answer.status_code, body["number"], body["name"], body["message_count"]) == (201, 1, "Plans", 0)
    assert client_of(alice).get(f"{PATH}/{body['id']}").json()["messages"] == []
    assert client_of(alice).post(PATH, {}, format="json").json()["number"] == 2


def test_it_is_renamed_and_nothing_else_of_it_is_changed(client_of, alice):
    conversation = talk(alice)
    given = {"name": "Plans", "number": 9, "id": NOBODYS, "updated_at": "2000-01-01T00:00:00Z"}
    answer = client_of(alice).patch(path(conversation), given, format="json")
    assert (answer.status_code, answer.json()["name"], answer.json()["number"]) == (200, "Plans", 1)
    stored = Conversation.objects.get()
    assert (stored.name, stored.number, stored.updated_at, stored.conversation_id) == (
        "Plans",
        1,
        NOW,
        conversation.conversation_id,
    )
    assert client_of(alice).patch(path(conversation), {}, format="json").json()["name"] == "Plans"
    assert client_of(alice).patch(path(conversation), {"name": ""}, format="json").json()["name"] == "one"


@pytest.mark.parametrize("name", [5, None, ["x"], "x" * 201, "nul\x00"])
def test_a_name_that_is_none_is_400_by_name(client_of, alice, name):
    conversation = talk(alice)
    for answer in (
        client_of(alice).patch(path(conversation), {"name": name}, format="json"),
        client_of(alice).post(PATH, {"name": name}, format="json"),
    ):
        assert (answer.status_code, list(answer.json())) == (400, ["name"])
    assert Conversation.objects.get().name == ""


def test_it_is_deleted(client_of, alice):
    conversation = talk(alice)
    assert client_of(alice).delete(path(conversation)).status_code == 204
    assert not Conversation.objects.exists()
    assert client_of(alice).delete(path(conversation)).status_code == 404


def test_messages_come_in_pages_in_the_order_they_were_said(client_of, alice):
    conversation = talk(alice, "0", "1")
    for number in range(2, 10, 2):
        conversations.add_turn(conversation, str(number), str(number + 1), NOW)
    client, url, seen = client_of(alice), path(conversation, "/messages?limit=3"), []
    while url:
        body = client.get(url).json()
        seen += [one["content"] for one in body["results"]]
        url = body["next"]
    assert seen == [str(number) for number in range(10)]


# Taken along


@pytest.mark.parametrize("query", ["", "?as=json"])
def test_it_is_exported_as_json(client_of, alice, query):
    conversation = talk(alice, "Wohin?", "Nach Österreich.")
    answer = client_of(alice).get(path(conversation, f"/export{query}"))
    assert answer["content-type"] == "application/json"
    assert answer["content-disposition"] == 'attachment; filename="conversation-1-wohin.json"'
    whole = client_of(alice).get(path(conversation)).json()
    assert json.loads(answer.content) == whole
    assert whole["messages"][1]["content"] == "Nach Österreich."


def test_it_is_exported_as_markdown(client_of, alice):
    conversation = talk(alice, "Where?\n\n1. here", "There.\n", name="Plans\n# x")
    answer = client_of(alice).get(path(conversation, "/export?as=markdown"), HTTP_ACCEPT="text/markdown")
    assert (answer.status_code, answer["content-type"]) == (200, "text/markdown; charset=utf-8")
    assert answer["content-disposition"] == 'attachment; filename="conversation-1-plans-x.md"'
    assert answer.content.decode() == (
        "# Plans # x\n\nStarted 2030-01-01 12:00 UTC\n\n## User\n\nWhere?\n\n1. here\n\n## Assistant\n\nThere.\n"
    )


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", 'a"; rm -rf /', "x\r\nset-cookie: a=b", "日本語", "-" * 150, "a" * 150]
)
def test_the_name_of_the_file_is_safe(client_of, alice, name):
    disposition = client_of(alice).get(path(talk(alice, name=name), "/export"))["content-disposition"]
    name = disposition.removeprefix('attachment; filename="').removesuffix('"')
    assert name.replace("-", "").replace(".json", "").isalnum()
    assert name.isascii()
    assert len(name) < 100


def test_another_form_is_400_by_name(client_of, alice):
    answer = client_of(alice).get(path(talk(alice), "/export?as=exe"))
    assert (answer.status_code, list(answer.json())) == (400, ["as"])


# Other people


@pytest.mark.parametrize("who", ["bob", "root"])
@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("get", ""),
        ("patch", ""),
        ("delete", ""),
        ("get", "/messages"),
        ("get", "/export"),
        ("get", "/export?as=markdown"),
    ],
)
def test_another_persons_conversation_does_not_exist_for_an_admin_neither(client_of, people, alice, who, method, rest):
    conversation = talk(alice, SECRET)
    send = getattr(client_of(people[who]), method)
    theirs = send(path(conversation, rest), {"name": "taken"}, format="json") if method == "patch" else None
    theirs = theirs or send(path(conversation, rest))
    nobodys = getattr(client_of(people[who]), method)(f"{PATH}/{NOBODYS}{rest}")
    assert (theirs.status_code, theirs.json()) == (nobodys.status_code, nobodys.json()) == (404, theirs.json())
    assert Conversation.objects.get().name == ""


def test_an_admin_lists_anothers_numbers_and_names_without_titles(client_of, root, alice):
    talk(alice, SECRET, SECRET)
    talk(alice, SECRET, SECRET, minutes=1, name="Plans")
    talk(root, "mine")
    client = client_of(root)
    body = client.get(PATH, {"user": alice.pk}).json()
    assert [(one["number"], one["name"]) for one in body["results"]] == [(2, "Plans"), (1, "")]
    assert SECRET not in json.dumps(body)
    assert client.get(PATH, {"user": alice.pk, "search": "launch"}).json()["results"] == []
    assert [one["name"] for one in client.get(PATH).json()["results"]] == ["mine"]
    assert client.get(PATH, {"user": 10**9}).json()["results"] == []


def test_another_user_lists_nothing_of_theirs(client_of, alice, bob):
    talk(alice)
    assert client_of(bob).get(PATH, {"user": alice.pk}).json()["results"] == []
    assert client_of(alice).get(PATH, {"user": alice.pk}).json()["results"] != []


# What is wrong


@pytest.mark.parametrize("user", ["x", "1.5", "-1", "0", "true", "9" * 30])
def test_a_user_that_is_no_number_is_400_by_name(client_of, root, user):
    answer = client_of(root).get(PATH, {"user": user})
    assert (answer.status_code, list(answer.json())) == (400, ["user"])


@pytest.mark.parametrize("identity", ["1", "x", "%00", NOBODYS + "0", "..%2f"])
def test_an_id_that_is_none_is_404(client_of, alice, identity):
    for rest in ("", "/messages", "/export"):
        assert client_of(alice).get(f"{PATH}/{identity}{rest}").status_code == 404


@pytest.mark.parametrize("rest", ["?", "/messages?"])
@pytest.mark.parametrize("place", ["garbage", "p=garbage", "p=2030-99-99", "o=x&p=1", "p=%00", "p=" + "9" * 40])
def test_a_cursor_that_is_none_is_an_error_of_the_caller(client_of, alice, rest, place):
    conversation = talk(alice)
    cursor = base64.b64encode(place.encode()).decode()
    url = f"{PATH}?" if rest == "?" else path(conversation, rest)
    assert client_of(alice).get(f"{url}cursor={cursor}").status_code in (200, 400, 404)


@pytest.mark.parametrize("method", ["get", "post", "patch", "delete"])
def test_without_a_token_it_is_401(client, alice, method):
    url = PATH if method == "post" else path(talk(alice))
    assert getattr(client, method)(url).status_code == 401


def test_put_is_not_offered(client_of, alice):
    assert client_of(alice).put(path(talk(alice)), {"name": "x"}, format="json").status_code == 405


def test_it_can_be_looked_at_in_a_browser(client, alice):
    client.force_login(alice)
    for url in (PATH, path(talk(alice)), path(talk(alice), "/messages")):
        answer = client.get(url, HTTP_ACCEPT="text/html")
        assert (answer.status_code, answer["content-type"]) == (200, "text/html; charset=utf-8")
