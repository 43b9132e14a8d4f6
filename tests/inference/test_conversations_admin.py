"""Django's admin pages about conversations: numbers, names and counts, never what was said."""

import re
from datetime import UTC, datetime

import pytest

from inference import conversations, responses
from inference.models import Conversation, Message, StoredResponse
from inference.responses_items import ItemTurn

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
SECRET = "the launch code is 0000"


@pytest.fixture
def pages(client, root):
    client.force_login(root)
    return client


@pytest.fixture
def conversation(alice):
    conversation = conversations.start(alice, NOW, "Plans")
    conversations.add_turn(conversation, SECRET, SECRET, NOW)
    turn = ItemTurn(SECRET, SECRET, f'[{{"content": "{SECRET}"}}]')
    assert responses.store(alice.pk, None, [turn], "resp_1", f'{{"text": "{SECRET}"}}', NOW)
    assert Conversation.objects.filter(title=SECRET).count() == 2
    return conversation


def test_the_list_shows_names_and_counts_only(pages, conversation):
    page = pages.get("/admin/inference/conversation/").content.decode()
    assert "Plans" in page
    counts = re.findall(r"<td[^>]*field-message_count.*?</td>", page, re.DOTALL)
    assert {re.sub(r"<[^>]*>", "", count).split()[-1] for count in counts} == {"2"}
    assert SECRET not in page


def test_what_was_said_is_not_searched(pages, conversation):
    def found(text):
        return pages.get("/admin/inference/conversation/", {"q": text}).content.decode().count("field-number")

    assert found("Plans") == 1
    assert found("launch") == 0


def test_a_conversations_page_shows_nothing_of_it_and_changes_nothing(pages, conversation):
    url = f"/admin/inference/conversation/{conversation.pk}"
    page = pages.get(f"{url}/change/").content.decode()
    assert "Plans" in page
    assert SECRET not in page
    assert SECRET not in pages.get(f"{url}/history/").content.decode()
    assert pages.post(f"{url}/change/", {"name": "x"}).status_code == 403
    assert pages.post(f"{url}/delete/", {"post": "yes"}).status_code == 403


def test_deleting_a_user_does_not_show_what_goes_with_them(pages, conversation, alice):
    answers = [
        pages.get(f"/admin/accounts/user/{alice.pk}/delete/"),
        pages.post("/admin/accounts/user/", {"action": "delete_selected", "_selected_action": [alice.pk]}, follow=True),
    ]
    for answer in answers:
        assert SECRET not in answer.content.decode()


@pytest.mark.parametrize("model", ["message", "storedresponse"])
def test_messages_and_responses_have_no_page(pages, model):
    assert pages.get(f"/admin/inference/{model}/").status_code == 404


def test_no_row_says_in_its_name_what_was_said(conversation):
    for row in [*Conversation.objects.all(), *Message.objects.all(), *StoredResponse.objects.all()]:
        assert SECRET not in str(row)
        assert SECRET not in repr(row)
