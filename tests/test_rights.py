"""Who may do what: each endpoint of Django for each caller, with an object that belongs to alice.

The data plane's part of it is tests/inference/test_rights.py.
"""

import platform
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from django.core import serializers
from rest_framework.test import APIClient

from accounts import keys
from accounts.auth import issue_tokens
from accounts.models import ApiKey, TokenLimit, User
from engines import lifecycle, recipes
from engines.models import Engine
from engines.recipe_models import Recipe
from engines.states import State
from inference import conversations
from inference.models import Conversation, Message, ModelAlias, UsageRecord
from tests.engines.fit.tiny import write_model
from tests.test_api_table import routed
from vllm_portal.config import get_config

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NOBODYS = "00000000-0000-4000-8000-000000000000"
# Words that stand in objects of alice and nowhere else: whoever reads them in an answer was given her object.
MODEL, KEY_NAME, TITLE, SAID = "alices/own-model", "alices-key-name", "alices-title", "what-alice-said"
BODIES = {"ASK": {"model": MODEL, "prompt": "hi"}}


class Row(NamedTuple):
    verb: str
    path: str
    body: dict | None
    nobody: int
    bob: int
    alice: int
    root: int
    """The statuses of the answers."""

    @property
    def disabled(self) -> int:
        """Who sends a token that does not count is told so, but where one comes to log in."""
        return self.nobody if self.path.startswith(("/healthz", "/token")) else 401


def own(verb, path, body=None, *, ok=200, root=None, other=404):
    """What its owner may do, and an admin unless `root` says otherwise."""
    return Row(verb, path, body, 401, other, ok, ok if root is None else root)


def each(verb, path, body=None, *, ok=200):
    """What everybody may do about themselves."""
    return Row(verb, path, body, 401, ok, ok, ok)


def admins(verb, path, body=None, *, ok=200):
    return Row(verb, path, body, 401, 403, 403, ok)


def anyones(verb, path, body=None, *, ok=200):
    return Row(verb, path, body, ok, ok, ok, ok)


ALICE = {"username": "alice"}
START = {"Model": "acme/tiny", "wait": False}
ROWS = [
    anyones("get", "/healthz"),
    anyones("get", "/api/schema"),
    anyones("get", "/api/docs"),
    anyones("post", "/token", {"username": "bob", "password": "correct horse"}),
    anyones("post", "/token/refresh", {"refresh_token": "{refresh}"}),
    each("post", "/token/logout"),
    # Engines
    each("get", "/active_models"),
    each("post", "/active_models"),
    each("get", "/vllm_request/active_models"),
    each("post", "/vllm_request/active_models"),
    each("post", "/vllm_request/start", START, ok=202),
    own("post", "/vllm_request/terminate", {"container_id": "{container}"}, ok=202),
    own("get", "/vllm_request/engines/{engine}"),
    own("get", "/vllm_request/engines/{engine}/logs"),
    each("get", "/api/v1/engines"),
    each("post", "/api/v1/engines", {"model": "acme/tiny"}, ok=202),
    each("post", "/api/v1/engines/fit", {"model": "{folder}"}),
    own("get", "/api/v1/engines/{engine}"),
    own("patch", "/api/v1/engines/{engine}", {"shared_users": ["bob"]}),
    own("delete", "/api/v1/engines/{engine}", ok=202),
    own("post", "/api/v1/engines/{engine}/retry", ok=409),
    own("post", "/api/v1/engines/{engine}/extend", {"hours": 1}, ok=400),  # it has no lease
    own("post", "/api/v1/engines/{engine}/wake", ok=409),
    own("get", "/api/v1/engines/{engine}/events"),
    own("get", "/api/v1/engines/{engine}/logs"),
    own("get", "/api/v1/engines/{engine}/logs/stream"),
    each("get", "/api/v1/recipes"),
    each("post", "/api/v1/recipes", {"name": "mine", "model": "acme/tiny"}, ok=201),
    own("get", "/api/v1/recipes/{recipe}"),
    own("patch", "/api/v1/recipes/{recipe}", {"notes": "changed"}),
    own("delete", "/api/v1/recipes/{recipe}", ok=204),
    own("post", "/api/v1/recipes/{recipe}/start", ok=202),
    each("get", "/api/v1/nodes"),
    each("get", "/api/v1/nodes/{node}"),
    # Keys: an admin sees and revokes everybody's, and makes none for others
    each("get", "/api/v1/key"),
    each("get", "/api/v1/keys"),
    each("post", "/api/v1/keys", {"name": "another"}, ok=201),
    own("get", "/api/v1/keys/{key}"),
    own("patch", "/api/v1/keys/{key}", {"name": "renamed"}),
    own("delete", "/api/v1/keys/{key}", ok=204),
    # Usage
    each("get", "/api/v1/usage"),
    own("get", "/api/v1/usage/{usage}"),
    each("get", "/api/v1/usage/summary"),
    # People
    admins("get", "/api/v1/aliases"),
    admins("post", "/api/v1/aliases", {"name": "default", "targets": [MODEL]}, ok=201),
    admins("get", "/api/v1/aliases/{alias}"),
    admins("patch", "/api/v1/aliases/{alias}", {"targets": ["acme/tiny"]}),
    admins("delete", "/api/v1/aliases/{alias}", ok=204),
    admins("get", "/api/v1/cached-models"),
    admins("get", "/api/v1/cached-models/{cached}"),
    admins("delete", "/api/v1/cached-models/{cached}", ok=204),
    admins("get", "/api/v1/users"),
    admins("post", "/api/v1/users", {"username": "carol", "password": "correct horse"}, ok=201),
    admins("get", "/api/v1/users/{alice}"),
    admins("patch", "/api/v1/users/{alice}", {"gen_token_limit": 5}),
    admins("post", "/api/v1/users/{alice}/remove", ok=202),
    each("get", "/api/v1/users/me"),
    admins("post", "/db_request/add_user", {"username": "carol", "password": "correct horse"}),
    admins("post", "/db_request/check_user_existence", ALICE),
    admins("delete", "/db_request/delete_user", ALICE, ok=202),
    admins("put", "/db_request/disable_user", ALICE),
    admins("put", "/db_request/enable_user", ALICE),
    admins("get", "/db_request/get_all_data"),
    admins("get", "/db_request/get_all_users"),
    admins("post", "/db_request/update_token_limit", {**ALICE, "gen_token_limit": 5}),
    admins("post", "/db_request/update_token_number", {**ALICE, "gen_token_number": 5}),
    each("post", "/db_request/get_token_info", ALICE),
    # Conversations: what was said is read by nobody else, admins included
    each("get", "/api/v1/conversations"),
    each("post", "/api/v1/conversations", {"name": "new"}, ok=201),
    own("get", "/api/v1/conversations/{conversation}", root=404),
    own("patch", "/api/v1/conversations/{conversation}", {"name": "renamed"}, root=404),
    own("delete", "/api/v1/conversations/{conversation}", ok=204, root=404),
    own("get", "/api/v1/conversations/{conversation}/export", root=404),
    own("get", "/api/v1/conversations/{conversation}/messages", root=404),
    own("post", "/api/v1/conversations/{conversation}/turns", {"prompt": "p", "answer": "a"}, ok=201, root=404),
    each("post", "/db_request/add_conversation", {**ALICE, "conversation_name": "new"}),
    own("delete", "/db_request/delete_conversation", {**ALICE, "conversation_number": 1}),
    own("post", "/db_request/update_conversation_name", {**ALICE, "conversation_number": 1, "conversation_name": "n"}),
    own("post", "/db_request/retrieve_conversation", {"conversation_number": 1}, root=404),
    own("post", "/db_request/retrieve_latest_conversation", root=404),
    each("post", "/db_request/retrieve_all_conversations", ALICE),
    each("post", "/db_request/get_user_conversations", ALICE),
]  # fmt: skip


@pytest.fixture
def things(people, monkeypatch, tmp_path):
    """What belongs to alice, and the names under which the rows know it; and a model's folder, which is for all."""
    monkeypatch.setitem(get_config().__dict__, "stop_wait_seconds", 0)  # no worker stops her engine
    alice = people["alice"]
    engine = lifecycle.request_start(alice, NOW, model=MODEL, name="own-1", launcher="simulator", device="cpu")
    assert lifecycle.place(engine, [], NOW)
    for old, new in ((State.PLACED, State.STARTING), (State.STARTING, State.LOADING), (State.LOADING, State.READY)):
        assert lifecycle.move(engine, old, new, NOW, host="127.0.0.1", port=9, container_id="c" * 64)
    conversation = conversations.start(alice, NOW, TITLE)
    conversations.add_turn(conversation, SAID, "an answer", NOW)
    record = UsageRecord.objects.create(
        request_id="r1", user=alice, engine=engine, model=MODEL, path="/v1/chat/completions", prompt_tokens=1,
        generated_tokens=1, exact=True, outcome="completed", started_at=NOW, duration_ms=1,
    )  # fmt: skip
    key, _ = keys.make(alice, {"name": KEY_NAME})
    monkeypatch.setitem(get_config().__dict__, "allowed_model_roots", [tmp_path])
    monkeypatch.setitem(get_config().__dict__, "hf_cache_dir", str(tmp_path))
    (tmp_path / "hub" / "models--acme--cached").mkdir(parents=True)
    return {
        "folder": write_model(tmp_path / "tiny"),
        "engine": engine.pk,
        "recipe": recipes.from_engine(alice, engine, {"name": "alices-own-recipe"}).pk,
        "container": engine.container_id,
        "conversation": conversation.conversation_id,
        "usage": record.pk,
        "key": key.pk,
        "alias": ModelAlias.objects.create(name="another-name", targets=["acme/else"]).pk,
        "alice": alice.pk,
        "node": platform.node(),
        "cached": "acme--cached",
    }


FOR_PROGRAMS = ("/healthz", "/api/schema", "/api/docs", "/logs", "/logs/stream", "/export", "/token/logout")
PAGES = {row.path for row in ROWS if not row.path.endswith(FOR_PROGRAMS)}


@pytest.mark.parametrize("path", sorted(PAGES))
@pytest.mark.parametrize("caller", ["alice", "root"])
def test_in_a_browser_each_endpoint_is_a_page(people, things, caller, path):
    """Also where GET is not allowed: then the page says so, and has the form for what is."""
    client = APIClient()
    client.force_login(people[caller])
    answer = client.get(path.format(**things), HTTP_ACCEPT="text/html,application/xhtml+xml,*/*;q=0.8")
    at_path = {row.verb: getattr(row, caller) for row in ROWS if row.path == path}
    refused = 403 if set(at_path.values()) == {403} else 405
    assert answer.status_code == at_path.get("get", refused)
    assert answer["content-type"] == "text/html; charset=utf-8"
    assert "rest_framework/css/" in answer.content.decode()


@pytest.fixture
def call(people, things):
    """call(caller, row): the answer."""
    gone = User.objects.create_user("gone", password="correct horse")
    tokens = {name: issue_tokens(user)[0] for name, user in {**people, "disabled": gone}.items()}
    User.objects.filter(pk=gone.pk).update(is_active=False)

    def ask(caller: str, row: Row):
        client = APIClient()
        headers = {} if caller == "nobody" else {"Authorization": f"Bearer {tokens[caller]}"}
        known = {**things, "refresh": issue_tokens(people["bob"])[1]}
        body = {
            name: value.format(**known) if isinstance(value, str) else value for name, value in (row.body or {}).items()
        }
        return getattr(client, row.verb)(row.path.format(**known), body or None, format="json", headers=headers)

    return ask


def everything() -> str:
    """The rows of all people and what they have, without what a log-in writes."""
    models = (User, TokenLimit, ApiKey, Engine, Recipe, Conversation, Message, ModelAlias, UsageRecord)
    rows = [row for model in models for row in model.objects.order_by("pk")]
    return serializers.serialize("json", rows)


def test_each_endpoint_has_a_row():
    named = [(row.verb, row.path.replace("{", "<").replace("}", ">")) for row in ROWS]
    assert len(set(named)) == len(named)
    placeholder = {
        name: "<id>"
        for name in ("engine", "recipe", "conversation", "usage", "key", "alice", "node", "alias", "cached")
    }
    paths = {(row.verb, row.path.format(**placeholder)) for row in ROWS}
    assert paths == routed() - {("post", "/llm_request")}  # which asks an engine


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.verb} {row.path}")
@pytest.mark.parametrize("caller", ["nobody", "disabled", "bob", "alice", "root"])
def test_who_may_do_what(call, caller, row):
    before = everything()
    answer = call(caller, row)
    text = "" if answer.streaming and answer.is_async else answer.getvalue().decode()
    assert answer.status_code == getattr(row, caller), text
    hidden = {"alice": [], "root": [SAID]}.get(caller, [MODEL, KEY_NAME, TITLE, SAID])
    assert [word for word in hidden if word in text] == []
    if answer.status_code >= 400:
        assert everything() == before
