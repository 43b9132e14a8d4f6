"""POST /llm_request: a prompt, an answer, a memory."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from accounts.models import ApiKey, User
from engines.models import Engine
from inference import api, chat, conversations
from inference.models import Conversation, Message, UsageRecord
from tests.fakes.upstream import STREAM_HEAD, chunk, completion, event, http, last_event, sse, streamed, whole
from tests.inference.conftest import ready_engine
from tests.threads import lent

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def endpoint(portal, engine) -> str:
    return f"{portal.url}/engines/{engine.id}/v1/completions"


@pytest.fixture
def ask(portal, engine):
    def ask(user, prompt="hi", path="/llm_request", **fields):
        body = {"model": "tiny", "inference_endpoint": endpoint(portal, engine), "prompt": prompt, **fields}
        return portal.post(user, path, body)

    return ask


def messages(raw_engine, at=-1):
    return [(one["role"], one["content"]) for one in raw_engine.received[at].json["messages"]]


@pytest.mark.parametrize("path", ["/llm_request", "/llm_request/"])
def test_a_prompt_gets_the_answers_text_with_the_configured_defaults(ask, alice, raw_engine, path):
    answer = ask(alice, path=path, username="ignored")
    assert (answer.status_code, answer.json()) == (200, {"username": "alice", "data": "hello"})
    sent = raw_engine.received[0].json
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["stream"]) == (0.7, 0.9, 512, False)
    assert messages(raw_engine) == [("system", "You are a helpful assistant."), ("user", "hi")]
    assert not Conversation.objects.exists()


def test_memory_sends_the_turns_before(ask, alice, raw_engine):
    ask(alice, "one", memory=True)
    ask(alice, "two", memory=True, system="Be brief.", temperature=0, max_tokens="9", top_p=0.5)
    assert messages(raw_engine) == [
        ("system", "Be brief."), ("user", "one"), ("assistant", "hello"), ("user", "two"),
    ]  # fmt: skip
    assert (raw_engine.received[-1].json["temperature"], raw_engine.received[-1].json["max_tokens"]) == (0, 9)
    conversation = Conversation.objects.get(user=alice)
    assert [message.content for message in conversation.messages.all()] == ["one", "hello", "two", "hello"]


@pytest.mark.parametrize("number", [None, 0, -1, "0", "-1"])
def test_no_number_means_the_latest_conversation(ask, alice, number):
    old = conversations.start(alice, NOW)
    latest = conversations.start(alice, NOW + timedelta(seconds=1))
    assert ask(alice, memory=True, conversation_number=number).status_code == 200
    assert (old.messages.count(), latest.messages.count()) == (0, 2)


def test_a_conversation_is_chosen_by_its_number_also_as_digits(ask, alice):
    first, _ = conversations.start(alice, NOW), conversations.start(alice, NOW)
    assert ask(alice, memory=True, conversation_number="1").status_code == 200
    assert first.messages.count() == 2


def test_unknown_and_other_peoples_conversations_are_404(ask, alice, bob, raw_engine):
    conversations.start(bob, NOW)
    for number in (1, 99):
        answer = ask(alice, memory=True, conversation_number=number)
        assert (answer.status_code, list(answer.json())) == (404, ["detail"])
    assert not raw_engine.received


def test_a_turn_whose_answer_fails_is_not_stored(ask, alice, raw_engine):
    raw_engine.answer = whole(b'{"error":{"message":"boom"}}', status=500)
    answer = ask(alice, memory=True)
    assert (answer.status_code, list(answer.json())) == (502, ["detail"])
    assert not Conversation.objects.exists()


def test_a_model_without_a_chat_template_gets_a_transcript(portal, alice, raw_engine):
    engine = ready_engine(alice, raw_engine.port, has_chat_template=False)
    body = json.loads(completion())
    body["choices"] = [{"index": 0, "text": " hello\n", "finish_reason": "stop"}]

    async def answer(request, writer):
        writer.write(http(json.dumps(body).encode()))

    raw_engine.answer = answer
    request = {"model": "tiny", "inference_endpoint": endpoint(portal, engine), "memory": True}
    for prompt in ("one", "two"):
        reply = portal.post(alice, "/llm_request", {**request, "prompt": prompt})
        assert reply.json()["data"] == "hello"
    received = raw_engine.received[-1]
    assert received.path == "/v1/completions"
    assert received.json["prompt"] == (
        "You are a helpful assistant.\n\nUser: one\nAssistant: hello\nUser: two\nAssistant:"
    )


def test_reasoning_is_kept_out_of_the_answer_and_the_memory(ask, alice, raw_engine):
    raw_engine.answer = whole(completion("<think>hm, let me see</think>\n\nfour"))
    assert ask(alice, memory=True).json()["data"] == "four"
    assert Message.objects.get(role="assistant").content == "four"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain", "plain"),
        ("<think>a</think>b", "b"),
        ("a</think>\nb", "b"),
        ("<think>never closed", ""),
        ("  <think>\na\n</think>\n\nb</think>", "b</think>"),
        ("a <think> b", "a <think> b"),
    ],
)
def test_what_of_an_answer_is_visible(text, seen):
    assert chat.visible(text) == seen


def test_a_streamed_answer_comes_in_pieces_and_is_remembered_as_a_whole(ask, alice, raw_engine, eventually):
    raw_engine.answer = streamed(sse(event("hel", 7, 1)), sse(event("lo", 7, 2), last_event(7, 2), b"[DONE]"))
    answer = ask(alice, stream=True, memory=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *pieces, done = [line.removeprefix("data: ") for line in answer.text.strip().split("\n\n")]
    assert "".join(json.loads(piece)["data"] for piece in pieces) == "hello"
    assert done == "[DONE]"
    eventually(lambda: [m.content for m in Message.objects.all()] == ["hi", "hello"])
    eventually(lambda: [r.generated_tokens for r in UsageRecord.objects.all()] == [2])


def test_a_streamed_answer_that_fails_says_so_and_is_not_remembered(ask, alice, raw_engine):
    raw_engine.answer = streamed(sse(event("hel", 7, 1)), end=False)
    assert '"detail"' in ask(alice, stream=True, memory=True).text
    assert not Conversation.objects.exists()


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_leaves_the_latest_conversation_as_it_was(ask, alice, raw_engine, stream):
    conversation = conversations.start(alice, NOW)
    conversations.add_turn(conversation, "one", "first", NOW)
    raw_engine.answer = whole(b'{"error":{"message":"boom"}}', status=500)
    assert ask(alice, stream=stream, memory=True).status_code == 502
    assert conversations.turns(Conversation.objects.get()) == [("one", "first")]
    assert Conversation.objects.get().updated_at == NOW


@pytest.mark.parametrize("stream", [False, True])
def test_who_is_deleted_while_the_engine_answers_leaves_nothing(ask, bob, raw_engine, stream):
    """Whichever comes first, the rest of the answer or the word of the deletion: it is told plainly."""
    Engine.objects.update(shared=True)

    async def answer(request, writer) -> None:
        await asyncio.to_thread(lent(lambda: User.objects.get(pk=bob.pk).delete()))
        await (streamed(sse(event("hello", 7, 1), b"[DONE]")) if stream else whole(completion()))(request, writer)

    raw_engine.answer = answer
    reply = ask(bob, stream=stream, memory=True)
    assert reply.status_code in (200, 401)
    assert ("hello" in reply.text and reply.status_code == 200) or "detail" in reply.text
    assert not Conversation.objects.exists()


@pytest.mark.parametrize("text", ["", "hel"])
def test_who_may_have_no_more_is_told_why_their_stream_ends(ask, bob, raw_engine, text):
    """Before its first word the answer can still have the status of its error."""
    Engine.objects.update(shared=True)

    async def answer(request, writer) -> None:
        writer.write(STREAM_HEAD + chunk(sse(event(text, 7, 1))))
        await asyncio.to_thread(lent(lambda: User.objects.get(pk=bob.pk).delete()))

    raw_engine.answer = answer
    reply = ask(bob, stream=True)
    assert reply.status_code == (200 if text else 401)
    last = [line for line in reply.text.replace("data: ", "").splitlines() if line.startswith("{")][-1]
    assert json.loads(last)["detail"] == "Your account is disabled, or your API key was revoked."


@pytest.mark.parametrize(
    "cut",
    [
        lambda url: url,
        lambda url: url + "/",
        lambda url: url.removesuffix("/completions"),
        lambda url: url.removesuffix("/v1/completions"),
        lambda url: url.rstrip("/completions"),  # noqa: B005
        lambda url: url.rstrip("/v1/completions"),  # noqa: B005
    ],
)
def test_the_endpoint_is_known_in_whatever_form_a_client_kept_it(portal, engine, alice, cut):
    body = {"model": "tiny", "inference_endpoint": cut(endpoint(portal, engine)), "prompt": "hi"}
    assert portal.post(alice, "/llm_request", body).status_code == 200


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest", "http://127.0.0.1:6379/", "file:///etc/passwd", "gopher://x", "x", "/engines/1"],
)
def test_an_endpoint_is_never_used_as_an_address(portal, engine, alice, raw_engine, url):
    answer = portal.post(alice, "/llm_request", {"model": "tiny", "inference_endpoint": url, "prompt": "hi"})
    assert (answer.status_code, list(answer.json())) == (404, ["detail"])
    assert not raw_engine.received


def test_other_peoples_engines_do_not_exist(ask, bob, raw_engine):
    assert ask(bob).status_code == 404
    assert not raw_engine.received


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("prompt", 5),
        ("prompt", ""),
        ("model", ["tiny"]),
        ("inference_endpoint", 5),
        ("memory", "perhaps"),
        ("conversation_number", "three"),
        ("conversation_number", 1.5),
        ("conversation_number", True),
        ("conversation_number", -2),
        ("conversation_number", 10**30),
        ("temperature", "hot"),
        ("temperature", "inf"),
        ("temperature", "nan"),
        ("max_tokens", 0),
        ("top_p", 2),
        ("stream", "perhaps"),
        ("system", 5),
    ],
)
def test_a_field_of_the_wrong_type_is_400_by_name(ask, alice, raw_engine, field, value):
    answer = ask(alice, **{field: value})
    assert (answer.status_code, list(answer.json())) == (400, [field])
    assert not raw_engine.received


@pytest.mark.parametrize("missing", ["prompt", "model"])
def test_a_missing_field_is_400_by_name(portal, engine, alice, missing):
    body = {"model": "tiny", "inference_endpoint": endpoint(portal, engine), "prompt": "hi"}
    del body[missing]
    answer = portal.post(alice, "/llm_request", body)
    assert (answer.status_code, list(answer.json())) == (400, [missing])


@pytest.mark.parametrize("data", [b"{", b"[]", b'"x"', b"\xff", b""])
def test_a_body_that_is_no_object_is_400(portal, engine, alice, data):
    answer = portal.post(alice, "/llm_request", data=data, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_without_a_token_it_is_401(portal, engine):
    import requests

    answer = requests.post(portal.url + "/llm_request", json={}, timeout=10)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_a_used_up_limit_is_429_and_says_so(ask, alice, limit):
    limit(alice, generated=0)
    answer = ask(alice)
    assert answer.status_code == 429
    assert "generated tokens" in answer.json()["detail"]


@pytest.mark.parametrize(("allowed", "models"), [([], None), (["tiny"], frozenset({"tiny"}))])
def test_a_key_is_known_to_the_data_plane_with_its_version_and_its_models(alice, allowed, models):
    key = ApiKey.objects.create(user=alice, name="k", digest="d", scopes=["inference"], allowed_models=allowed,
                                version=3, created_at=NOW)  # fmt: skip
    caller = api._caller(SimpleNamespace(user=alice, auth=key))
    assert (caller.user_id, caller.key_id, caller.key_version, caller.models) == (alice.pk, key.pk, 3, models)
    caller = api._caller(SimpleNamespace(user=alice, auth=None))
    assert (caller.user_id, caller.key_id, caller.key_version, caller.models) == (alice.pk, None, 0, None)


def test_numbers_of_conversations_are_never_reused(alice):
    first = conversations.start(alice, NOW)
    first.delete()
    assert conversations.start(alice, NOW).number == 2
