"""What is read of a request's body, and what is sent on."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.body import FORBIDDEN
from inference.endpoints import CHAT, COMPLETIONS, ENDPOINTS
from inference.errors import InvalidRequest
from inference.ledger_link import _command


def chat(**fields):
    return CHAT.parse(json.dumps({"model": "m", **fields}).encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(extra=st.dictionaries(st.text(min_size=1, max_size=8).map("x_{}".format), json_values, max_size=4))
def test_whatever_else_is_in_a_body_reaches_the_engine_unchanged(extra):
    assert json.loads(chat(messages=[], **extra).encode()) == {"model": "m", "messages": [], **extra}


def test_a_key_that_comes_twice_means_one_thing_to_the_portal_and_the_engine():
    body = CHAT.parse(b'{"model": "a", "max_tokens": 1, "model": "b", "max_tokens": 9}')
    assert (body.model, body.max_tokens) == ("b", 9)
    assert json.loads(body.encode()) == {"model": "b", "max_tokens": 9}
    assert body.encode().count(b"max_tokens") == 1


def test_max_completion_tokens_is_a_chats_name_for_it_and_counts_first():
    body = chat(max_tokens=5, max_completion_tokens=7)
    assert (body.max_tokens, body.max_tokens_field) == (7, "max_completion_tokens")
    body = COMPLETIONS.parse(b'{"max_completion_tokens": 7, "max_tokens": 5}')
    assert (body.max_tokens, body.max_tokens_field) == (5, "max_tokens")


def test_a_completion_without_max_tokens_has_openais_default():
    assert COMPLETIONS.parse(b'{"prompt": "x"}').max_tokens == 16
    assert COMPLETIONS.parse(b'{"prompt": "x", "max_tokens": null}').max_tokens is None
    assert chat().max_tokens is None


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("text", 1), ([1, 2, 3], 1), (["a", "b"], 2), ([[1, 2], [3]], 2), ([], 1), (None, 1), (["a"], 1)],
)
def test_several_prompts_are_counted(prompt, prompts):
    assert COMPLETIONS.parse(json.dumps({"prompt": prompt, "n": 2}).encode()).choices == prompts * 2
    assert ENDPOINTS["/v1/embeddings"].parse(json.dumps({"input": prompt}).encode()).prompts == prompts


def test_images_are_not_bounded_by_their_bytes():
    part = {"type": "image_url", "image_url": {"url": "data:,"}}
    pictures = chat(messages=[{"role": "user", "content": [part]}])
    words = chat(messages=[{"role": "user", "content": [{"type": "text", "text": "an image"}]}])
    assert (CHAT.prompt_bound(pictures, 4096), CHAT.prompt_bound(words, 4096) < 4096) == (4096, True)


def test_no_prompt_is_longer_than_the_context():
    long = chat(messages=[{"role": "user", "content": "x" * 10_000}])
    assert CHAT.prompt_bound(long, 2048) == 2048


@given(st.text(min_size=1, max_size=200))
def test_the_bound_is_never_below_a_token_for_each_byte(text):
    body = chat(messages=[{"role": "user", "content": text}])
    assert CHAT.prompt_bound(body, 10**9) >= len(text.encode())


@pytest.mark.parametrize("options", [5, "x", []])
def test_stream_options_of_another_type_are_refused(options):
    with pytest.raises(InvalidRequest) as refusal:
        chat(stream=True, stream_options=options)
    assert refusal.value.param == "stream_options"


def test_numbers_reach_the_engine_as_they_were_written():
    sent = b'{"messages":[],"temperature":0.10000000000000000001,"seed":9223372036854775807,"logit_bias":{"1":1e-7}}'
    assert CHAT.parse(sent).encode() == sent


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda endpoint: endpoint.path)
@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_what_is_the_operators_to_say_is_refused_everywhere(endpoint, name):
    with pytest.raises(InvalidRequest) as refusal:
        endpoint.parse(json.dumps({"model": "m", name: "x"}).encode())
    assert (refusal.value.param, refusal.value.status) == (name, 400)
    endpoint.parse(json.dumps({"model": "m", name: None}).encode())


def test_a_template_does_not_come_in_by_the_back_door():
    with pytest.raises(InvalidRequest) as refusal:
        chat(messages=[], chat_template_kwargs={"chat_template": "{{ 1 }}"})
    assert refusal.value.param == "chat_template_kwargs"
    assert chat(messages=[], chat_template_kwargs={"enable_thinking": False}).text_only


def test_a_lowered_limit_lowers_what_must_be_generated_at_least():
    body = chat(messages=[], max_tokens=50, min_tokens=40)
    CHAT.limit(body, 10, 1024)
    assert json.loads(body.encode()) == {"model": "m", "messages": [], "max_tokens": 10, "min_tokens": 10}
    contradiction = chat(messages=[], max_tokens=50, min_tokens=60)
    CHAT.limit(contradiction, 10, 1024)
    assert json.loads(contradiction.encode())["min_tokens"] == 60, "the engine says what is wrong with it"


def test_a_completion_that_only_echoes_costs_a_token_all_the_same():
    body = COMPLETIONS.parse(b'{"prompt": "x", "max_tokens": 0, "echo": true}')
    assert COMPLETIONS.wanted(body, 1024) == 1
    COMPLETIONS.limit(body, 1, 1024)
    assert json.loads(body.encode())["max_tokens"] == 0


def test_a_command_for_redis_is_length_prefixed_whatever_is_in_it():
    assert _command(b"A", b"x\r\ny", b"") == b"*3\r\n$1\r\nA\r\n$4\r\nx\r\ny\r\n$0\r\n\r\n"


FULL = json.dumps({
    "model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "prompt": ["a", "b"],
    "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}, "a"], "query": "a",
    "documents": ["a"], "stream": True, "stream_options": {"include_usage": True}, "n": 1, "store": True,
    "tools": [{"type": "function", "function": {"name": "a"}}], "previous_response_id": "resp_1", "truncation": "auto",
}).encode()  # fmt: skip


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda endpoint: endpoint.path)
@pytest.mark.parametrize("bad", [b"\xee", b"\x00", b'"', b"[", b"\\ud800"])
def test_a_body_spoilt_anywhere_is_refused_or_read(endpoint, bad):
    for at in range(len(FULL)):
        for spoilt in (FULL[:at] + bad + FULL[at:], FULL[:at] + bad + FULL[at + 1 :]):
            try:
                endpoint.parse(spoilt).encode()
            except InvalidRequest as refusal:
                assert refusal.status == 400  # noqa: PT017
