"""The playground's side bar: whose conversations are in it, and what its forms do."""

import re
import uuid

import pytest
from django.test import Client
from django.utils import timezone

from inference import conversations
from inference.models import Conversation

LIST = "/playground/conversations"
pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(alice) -> Client:
    client = Client()
    client.force_login(alice)
    return client


@pytest.fixture
def talk():
    """talk(user, name): a conversation."""
    return lambda user, name="": conversations.start(user, timezone.now(), name)


def names(answer) -> list[str]:
    assert answer.status_code == 200
    return re.findall(r'data-open title="([^"]*)"', answer.content.decode())


def test_ones_own_are_listed_latest_first(browser, alice, bob, talk):
    talk(alice, "first")
    talk(bob, "secret")
    talk(alice)
    assert names(browser.get(LIST)) == ["Conversation 2", "first"]


def test_each_word_is_looked_for(browser, alice, talk):
    for name in ("old oaks", "young oaks", "old seas"):
        talk(alice, name)
    assert names(browser.get(LIST, {"search": "oak OLD"})) == ["old oaks"]
    assert names(browser.get(LIST, {"search": "\x00 "})) == ["old seas", "young oaks", "old oaks"]
    assert "None with this" in browser.get(LIST, {"search": "trees"}).content.decode()


@pytest.mark.parametrize("start", ["x", "-1", "9" * 30, "²"])
def test_what_is_no_number_is_the_beginning(browser, alice, talk, start):
    talk(alice, "one")
    assert names(browser.get(LIST, {"from": start})) == ["one"]


def test_one_is_renamed_and_the_list_stays_searched(browser, alice, talk):
    one, _ = talk(alice, "one"), talk(alice, "two")
    answer = browser.post(f"{LIST}/{one.conversation_id}/rename", {"name": " three\x00 " + "x" * 300, "search": "thr"})
    assert names(answer) == [f"three {'x' * 194}"]


def test_one_is_deleted_and_the_page_is_told(browser, alice, talk):
    one = talk(alice, "one")
    for _ in range(2):  # what is gone already is gone
        answer = browser.post(f"{LIST}/{one.conversation_id}/delete")
        assert (names(answer), str(one.conversation_id) in answer["HX-Trigger"]) == ([], True)


def test_anothers_is_neither_renamed_nor_deleted(browser, bob, talk):
    theirs = talk(bob, "theirs")
    for verb in ("rename", "delete"):
        assert names(browser.post(f"{LIST}/{theirs.conversation_id}/{verb}", {"name": "mine"})) == []
        assert names(browser.post(f"{LIST}/{'-' * 36}/{verb}")) == []
    assert Conversation.objects.get().name == "theirs"


def test_it_is_for_who_is_logged_in_and_changes_nothing_by_a_link(browser, alice, talk):
    one = talk(alice, "one")
    answer = Client().get(LIST)
    assert (answer.status_code, "You are logged out" in answer.content.decode()) == (401, True)
    for verb in ("rename", "delete"):
        assert Client().post(f"{LIST}/{one.conversation_id}/{verb}").status_code == 401
        assert browser.get(f"{LIST}/{one.conversation_id}/{verb}").status_code == 405
        assert Client(enforce_csrf_checks=True).post(f"{LIST}/{uuid.uuid4()}/{verb}").status_code == 403


def test_what_a_name_holds_is_text(browser, alice, talk):
    talk(alice, "<script>alert(1)</script>")
    assert "<script" not in browser.get(LIST).content.decode()


def test_many_cost_as_few_queries_as_one(browser, alice, talk, django_assert_max_num_queries):
    for number in range(40):
        talk(alice, str(number))
    with django_assert_max_num_queries(3):
        assert len(names(browser.get(LIST))) == 30
