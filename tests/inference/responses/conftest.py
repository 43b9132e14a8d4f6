"""A portal whose engine answers /v1/responses."""

import pytest

from inference import conversations
from tests.fakes.responses import answering

PATH = "/v1/responses"


@pytest.fixture
def say(portal, engine, raw_engine):
    """say(user, "text", …fields): the response object that the user gets."""
    raw_engine.answer = answering()

    def say(user, text="hi", status=200, **fields):
        answer = portal.post(user, PATH, {"model": "tiny", "input": text, **fields})
        assert answer.status_code == status, answer.text
        return answer.json()

    return say


@pytest.fixture
def turns(db):
    """turns(user): of each of the user's conversations, by number, what was said."""

    def turns(user):
        return [conversations.turns(conversation) for conversation in user.conversations.all()]

    return turns
