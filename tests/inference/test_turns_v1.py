"""POST /api/v1/conversations/<id>/turns: what a client asked an engine itself is kept."""

import pytest

from inference import conversations
from inference.models import Conversation, Message, StoredResponse
from tests.accounts.conftest import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture
def talk(alice):
    """Two turns of alice's."""
    made = conversations.start(alice, NOW)
    for prompt in ("one", "two"):
        conversations.add_turn(made, prompt, f"answer to {prompt}", NOW)
    made.refresh_from_db()
    return made


@pytest.fixture
def store(client_of, alice, talk):
    """store(…): the answer to a turn that alice wants kept."""
    client = client_of(alice)
    path = f"/api/v1/conversations/{talk.conversation_id}/turns"
    return lambda **body: client.post(path, {"prompt": "new", "answer": "newer", **body}, format="json")


def prompts(talk) -> list[str]:
    return [prompt for prompt, _ in conversations.turns(talk)]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ({}, ["one", "two", "new"]),
        ({"keep": 2}, ["one", "two", "new"]),
        ({"keep": 1}, ["one", "new"]),
        ({"keep": 0, "turns": 2}, ["new"]),
        ({"keep": "1", "turns": 2}, ["one", "new"]),
    ],
)
def test_a_turn_goes_behind_those_that_stay(store, talk, body, left):
    answer = store(**body)
    assert (answer.status_code, answer.json()) == (201, {"turns": len(left)})
    assert prompts(talk) == left
    assert Message.objects.count() == 2 * len(left)
    assert Conversation.objects.get().updated_at != NOW


def test_text_is_kept_as_it_is(store, talk):
    store(prompt="  two\n\nlines  ", answer="\n    code\n")
    assert conversations.turns(talk)[-1] == ("  two\n\nlines  ", "\n    code\n")


@pytest.mark.parametrize(("keep", "title"), [(0, "new"), (1, "one")])
def test_the_title_is_that_of_the_first_prompt(store, keep, title):
    store(keep=keep)
    assert Conversation.objects.get().title == title


def test_a_first_turn_gives_the_title(client_of, alice):
    client = client_of(alice)
    talk = client.post("/api/v1/conversations", {}, format="json").json()["id"]
    client.post(f"/api/v1/conversations/{talk}/turns", {"prompt": "Hello", "answer": "Hi"}, format="json")
    assert client.get(f"/api/v1/conversations/{talk}").json()["name"] == "Hello"


def test_where_it_went_on_meanwhile_nothing_is_lost(store, talk):
    answer = store(keep=0, turns=1)
    assert (answer.status_code, prompts(talk)) == (409, ["one", "two"])
    assert "2 turns by now, not 1" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"keep": 3}, "keep"), ({"keep": -1}, "keep"), ({"keep": "x"}, "keep"), ({"keep": 1.5}, "keep"),
        ({"turns": -1}, "turns"), ({"prompt": ""}, "prompt"), ({"answer": ""}, "answer"), ({"answer": None}, "answer"),
        ({"prompt": 5}, "prompt"), ({"answer": "nul\x00"}, "answer"), ({"keep": 2**70}, "keep"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(store, talk, body, field):
    answer = store(**body)
    assert (answer.status_code, list(answer.json())) == (400, [field])
    assert prompts(talk) == ["one", "two"]


def test_half_a_character_is_refused(client_of, alice, talk):
    path = f"/api/v1/conversations/{talk.conversation_id}/turns"
    answer = client_of(alice).post(path, '{"prompt": "\\ud800", "answer": "x"}', content_type="application/json")
    assert answer.status_code == 400
    assert prompts(talk) == ["one", "two"]


def test_a_message_without_its_counterpart_counts_as_no_turn(store, talk):
    Message.objects.create(conversation=talk, role="user", content="unanswered", created_at=NOW)
    assert store(keep=2, turns=2).json() == {"turns": 3}
    assert [message.content for message in talk.messages.all()][-2:] == ["new", "newer"]


def test_a_response_whose_turn_is_replaced_is_gone(store, alice, talk):
    answer = talk.messages.last()
    StoredResponse.objects.create(
        user=alice, conversation=talk, answer=answer, response_id="resp_1", items="[]", created_at=NOW
    )
    store(keep=1)
    assert not StoredResponse.objects.exists()


@pytest.mark.parametrize("who", ["bob", "root"])
def test_nobody_else_writes_there(people, client_of, talk, who):
    path = f"/api/v1/conversations/{talk.conversation_id}/turns"
    answer = client_of(people[who]).post(path, {"prompt": "x", "answer": "y"}, format="json")
    assert (answer.status_code, prompts(talk)) == (404, ["one", "two"])


def test_one_deleted_meanwhile_is_not_found(alice, talk):
    from vllm_portal.errors import NotFound

    Conversation.objects.all().delete()
    with pytest.raises(NotFound):
        conversations.replace_turns(talk, None, None, "x", "y", NOW)
