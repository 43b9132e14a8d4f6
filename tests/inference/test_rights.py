"""Who may ask an engine that belongs to alice: each endpoint of the data plane for each caller.

The rest of the API is tests/test_rights.py's.
"""

import pytest
import requests

from accounts import keys
from accounts.auth import issue_tokens
from accounts.models import ApiKey, User
from engines.models import Engine
from inference.models import UsageRecord
from inference.openai import _PATHS
from tests.fakes.upstream import whole

ANSWER = whole(b'{"id": "x", "count": 3, "choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}')
BODY = {"model": "tiny", "messages": [], "input": "x", "prompt": "x", "max_tokens": 1, "tokens": []}
POSTS = [path for path in _PATHS if "models" not in path] + ["/llm_request"]
REFUSED = {
    "nobody": 401,
    "a disabled user": 401,
    "a revoked key": 401,
    "bob": 404,
    "bob's key": 404,
    "a key that only reads": 403,
    "a key that only manages": 403,
    "a key for other models": 404,
}
READERS = ["a key that only reads", "a key that only manages"]
"""They may look at the list of models."""
SERVED = ["alice", "root", "a key of alice"]


@pytest.fixture
def callers(people):
    """The headers of each caller."""
    alice, bob = people["alice"], people["bob"]
    gone = User.objects.create_user("gone", password="correct horse")
    tokens = {name: issue_tokens(user)[0] for name, user in {**people, "a disabled user": gone}.items()}
    User.objects.filter(pk=gone.pk).update(is_active=False)

    def key(owner: User, *scopes: str, **rights: object) -> tuple[ApiKey, str]:
        return keys.make(owner, {"name": "k", "scopes": list(scopes), **rights})

    revoked, clear = key(alice, "inference")
    keys.revoke(revoked)
    clear_keys = {
        "a revoked key": clear,
        "bob's key": key(bob, "inference")[1],
        "a key that only reads": key(alice, "read-only")[1],
        "a key that only manages": key(alice, "management")[1],
        "a key for other models": key(alice, "inference", allowed_models=["other"])[1],
        "a key of alice": key(alice, "inference")[1],
    }
    shown = {name: {"Authorization": f"Bearer {clear}"} for name, clear in {**tokens, **clear_keys}.items()}
    return {**shown, "nobody": {}}


def ask(portal, path: str, headers: dict) -> requests.Response:
    return requests.post(portal.url + path, json=BODY, headers=headers, timeout=20)


def paths(engine) -> list[str]:
    return [*POSTS, *(f"/engines/{engine.pk}{path}" for path in POSTS if path != "/llm_request")]


@pytest.mark.parametrize("caller", REFUSED)
def test_who_is_refused_reaches_no_engine(portal, engine, raw_engine, callers, caller):
    for path in paths(engine):
        answer = ask(portal, path, callers[caller])
        assert answer.status_code == REFUSED[caller], (path, answer.text)
        assert str(engine.pk) not in answer.text or str(engine.pk) in path
    listed = requests.get(portal.url + "/v1/models", headers=callers[caller], timeout=20)
    if caller not in READERS:
        assert listed.status_code == 401 or listed.json()["data"] == []
    assert raw_engine.received == []
    assert not UsageRecord.objects.exists()


@pytest.mark.parametrize("caller", SERVED)
def test_who_may_is_served_at_each_path(portal, engine, raw_engine, callers, caller):
    raw_engine.answer = ANSWER
    for path in paths(engine):
        answer = ask(portal, path, callers[caller])
        assert answer.status_code in ((200, 502) if path == "/llm_request" else (200,)), (path, answer.text)
    assert len(raw_engine.received) >= len(paths(engine))


def test_a_shared_engine_serves_everybody_who_counts(portal, engine, raw_engine, callers):
    raw_engine.answer = ANSWER
    Engine.objects.filter(pk=engine.pk).update(shared=True)
    for caller, status in {**REFUSED, "bob": 200, "bob's key": 200}.items():
        assert ask(portal, "/v1/chat/completions", callers[caller]).status_code == status, caller
