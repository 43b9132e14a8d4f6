"""What two requests have in common whose prompts begin alike."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import affinity
from inference.body import LONGEST_TOKENS, MEDIA_TOKENS, USUAL_TOKENS, Body
from inference.endpoints import CHAT, COMPLETIONS, ENDPOINTS, MESSAGES, RESPONSES
from tests.thorough import examples

ALICE, BOB = 1, 2
SYSTEM = {"role": "system", "content": "You are kind."}
FIRST = {"role": "user", "content": "Tell me of Paris."}
LATER = [{"role": "assistant", "content": "It is large."}, {"role": "user", "content": "How large?"}]


def body(endpoint=CHAT, **fields) -> Body:
    return endpoint.parse(json.dumps({"model": "tiny", **fields}).encode())


def key(endpoint=CHAT, of=ALICE, **fields) -> bytes:
    return body(endpoint, **fields).affinity(of)


@pytest.mark.parametrize("before", [[], [SYSTEM]])
def test_a_conversation_keeps_its_key_as_it_grows(before):
    first = key(messages=[*before, FIRST])
    assert first
    assert key(messages=[*before, FIRST, *LATER], temperature=0.5, stream=True) == first
    assert key(messages=[*before, {**FIRST, "content": "Tell me of Rome."}]) != first
    assert key(messages=[{"role": "system", "content": "Be brief."}, FIRST]) != first


def test_users_have_no_keys_in_common():
    """Their cached prefixes are kept apart, so nothing is gained, and all users of an agent would be on one engine."""
    assert key(messages=[FIRST]) != key(messages=[FIRST], of=BOB)
    assert key(prompt_cache_key="k", messages=[FIRST]) != key(prompt_cache_key="k", messages=[FIRST], of=BOB)
    assert affinity.of_conversation(ALICE, "1") != affinity.of_conversation(BOB, "1")


def test_what_the_client_says_comes_before_what_the_prompt_says():
    named = key(prompt_cache_key="k", user="u", messages=[FIRST])
    assert named == key(prompt_cache_key="k", user="other", messages=LATER)
    of_user = key(user="u", messages=[FIRST])
    assert of_user == key(user="u", messages=LATER) != named
    unnamed = key(messages=[FIRST])
    for nothing in (None, ""):
        assert key(prompt_cache_key=nothing, messages=[FIRST]) == unnamed


def test_a_response_begins_as_the_request_that_goes_on_from_it():
    first = key(RESPONSES, input="Tell me of Paris.", instructions="Be kind.")
    assert key(RESPONSES, input=[FIRST, *LATER], instructions="Be kind.") == first
    assert key(RESPONSES, input="Tell me of Paris.") != first


def test_a_system_prompt_beside_the_messages_counts():
    one, other = (key(MESSAGES, system=said, messages=[FIRST], max_tokens=5) for said in ("Be kind.", "Be brief."))
    assert one != other


def test_a_long_prompt_counts_by_its_beginning_and_a_short_one_not_at_all():
    long = "x" * affinity.FIRST_BYTES
    assert key(COMPLETIONS, prompt=long + "one") == key(COMPLETIONS, prompt=long + "two") != b""
    assert key(COMPLETIONS, prompt="y" + long) != key(COMPLETIONS, prompt=long)
    assert key(COMPLETIONS, prompt="short") == b""


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/score", "/tokenize"])
def test_what_reads_each_prompt_once_has_no_key(path):
    assert key(ENDPOINTS[path], input="x" * 999, prompt="x" * 999, messages=[FIRST], prompt_cache_key="k") == b""


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda one: st.lists(one) | st.dictionaries(st.text(), one),
    )
)
@examples(200)
def test_nothing_in_a_body_is_an_error_here(value):
    for name in ("messages", "input", "prompt", "system", "instructions", "prompt_cache_key"):
        assert isinstance(key(messages=value) if name == "messages" else key(**{name: value}), bytes)
        assert isinstance(key(messages=[{"role": value, "content": value}]), bytes)


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({}, USUAL_TOKENS),
        ({"max_tokens": 100}, 100),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"max_tokens": 2**31 - 1}, LONGEST_TOKENS),
        ({"max_tokens": 0}, 0),
    ],
)
def test_a_request_weighs_its_prompt_and_the_answer_that_it_allows(fields, answer):
    asked = body(messages=[FIRST], **fields)
    assert asked.weight == asked.size // 4 + 1 + answer


def test_a_picture_weighs_no_more_than_a_picture():
    url = {"url": "data:image/png;base64," + "A" * 10**6}
    asked = body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": url}]}], max_tokens=1)
    assert asked.weight == MEDIA_TOKENS + 1
    vectors = body(ENDPOINTS["/v1/embeddings"], input="x" * 400)
    assert vectors.weight == vectors.size // 4 + 1
