"""What is read of a request's body, and what is sent on."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.body import Kind, parse, prompt_bound
from inference.errors import InvalidRequest
from inference.ledger_link import _command


def chat(**fields):
    return parse(json.dumps({"model": "m", **fields}).encode(), Kind.CHAT)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(extra=st.dictionaries(st.text(min_size=1, max_size=8).map("x_{}".format), json_values, max_size=4))
def test_whatever_else_is_in_a_body_reaches_the_engine_unchanged(extra):
    assert json.loads(chat(messages=[], **extra).encode()) == {"model": "m", "messages": [], **extra}


def test_a_key_that_comes_twice_means_one_thing_to_the_portal_and_the_engine():
    body = parse(b'{"model": "a", "max_tokens": 1, "model": "b", "max_tokens": 9}', Kind.CHAT)
    assert (body.model, body.max_tokens) == ("b", 9)
    assert json.loads(body.encode()) == {"model": "b", "max_tokens": 9}
    assert body.encode().count(b"max_tokens") == 1


def test_max_completion_tokens_is_a_chats_name_for_it_and_counts_first():
    body = chat(max_tokens=5, max_completion_tokens=7)
    assert (body.max_tokens, body.max_tokens_field) == (7, "max_completion_tokens")
    body = parse(b'{"max_completion_tokens": 7, "max_tokens": 5}', Kind.COMPLETION)
    assert (body.max_tokens, body.max_tokens_field) == (5, "max_tokens")


def test_a_completion_without_max_tokens_has_openais_default():
    assert parse(b'{"prompt": "x"}', Kind.COMPLETION).max_tokens == 16
    assert parse(b'{"prompt": "x", "max_tokens": null}', Kind.COMPLETION).max_tokens is None
    assert chat().max_tokens is None


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("text", 1), ([1, 2, 3], 1), (["a", "b"], 2), ([[1, 2], [3]], 2), ([], 1), (None, 1), (["a"], 1)],
)
def test_several_prompts_are_counted(prompt, prompts):
    assert parse(json.dumps({"prompt": prompt, "n": 2}).encode(), Kind.COMPLETION).choices == prompts * 2
    assert parse(json.dumps({"input": prompt}).encode(), Kind.EMBEDDING).prompts == prompts


def test_images_are_not_bounded_by_their_bytes():
    part = {"type": "image_url", "image_url": {"url": "data:,"}}
    pictures = chat(messages=[{"role": "user", "content": [part]}])
    words = chat(messages=[{"role": "user", "content": [{"type": "text", "text": "an image"}]}])
    assert (prompt_bound(pictures, 4096), prompt_bound(words, 4096) < 4096) == (4096, True)


def test_no_prompt_is_longer_than_the_context():
    long = chat(messages=[{"role": "user", "content": "x" * 10_000}])
    assert prompt_bound(long, 2048) == 2048


@given(st.text(min_size=1, max_size=200))
def test_the_bound_is_never_below_a_token_for_each_byte(text):
    body = chat(messages=[{"role": "user", "content": text}])
    assert prompt_bound(body, 10**9) >= len(text.encode())


@pytest.mark.parametrize("options", [5, "x", []])
def test_stream_options_of_another_type_are_refused(options):
    with pytest.raises(InvalidRequest) as refusal:
        chat(stream=True, stream_options=options)
    assert refusal.value.param == "stream_options"


def test_a_command_for_redis_is_length_prefixed_whatever_is_in_it():
    assert _command(b"A", b"x\r\ny", b"") == b"*3\r\n$1\r\nA\r\n$4\r\nx\r\ny\r\n$0\r\n\r\n"
