"""A stream's filter sees bytes, not packets: at each byte of a stream, what has been given out and counted depends on
what has come, and not on how."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.endpoints import MESSAGES, RESPONSES
from inference.sse import Filter
from tests.fakes.upstream import event, last_event, sse
from tests.inference.test_endpoints_streams import MESSAGE_BODY, RESPONSE_BODY, message, response
from tests.inference.test_sse import PRINT, finished
from tests.thorough import examples

DONE = b"[DONE]"
DETAILS = b',"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1}}}'
ERROR = json.dumps({"error": {"message": "boom", "type": "Dead", "param": None, "code": 500}}).encode()
STREAMS = {
    "plain": sse(event("a", 5, 1), event("é😀", 5, 2), finished("", 5, 3), last_event(5, 3), DONE),
    "named by its engine": sse(event("a", 5, 1), finished("b", 5, 2), last_event(5, 2)[:-1] + PRINT + b"}", DONE),
    "details": sse(event("a", 5, 1)[:-2] + DETAILS, last_event(5, 1)[:-2] + DETAILS, DONE),
    "two choices": sse(
        *(event("x", 5, 1 + turn // 2, index=turn % 2) for turn in range(4)),
        finished("a", 5, 3),
        finished("b", 5, 3, index=1),
        last_event(5, 6)[:-1] + PRINT + b"}",
        DONE,
    ),
    "usage that is said": sse(event('"usage":{"prompt_tokens":9}', 5, 1), event("\n\ndata: [DONE]\n\n", 5, 2), DONE),
    "a failure": sse(event("a", 5, 1), ERROR, DONE),
    "no usage": sse(b'{"choices":[{"index":0}],"usage":null}', b'{"choices":[]}', DONE),
    "a comment": b": ping\n\n" + sse(event("a", 5, 1), DONE),
    "broken off": sse(event("a", 5, 1), finished("b", 5, 2)) + b'data: {"choices":[{"index":0}],"usage":{"prompt_to',
    "nothing": b"",
}
OPTIONS = {
    "no usage": {"keep_usage": False, "keep_continuous": False},
    "usage": {"keep_usage": True, "keep_continuous": False},
    "continuous usage": {"keep_usage": True, "keep_continuous": True},
    "choices": {"keep_usage": False, "keep_continuous": False, "choices": 2, "choices_per_prompt": 2},
    "prompts": {"keep_usage": False, "keep_continuous": False, "choices": 2, "choices_per_prompt": 1},
}
MAKERS = {f"chat, {name}": lambda options=options: Filter(**options, known={}) for name, options in OPTIONS.items()} | {
    "messages": lambda: MESSAGES.stream(MESSAGE_BODY),
    "responses": lambda: RESPONSES.stream(RESPONSE_BODY),
}
ALL = [(maker, stream) for maker in MAKERS if maker.startswith("chat") for stream in STREAMS.values()] + [
    ("messages", message(7, ["a", "\n\n", "é"], 3)),
    ("responses", response(7, ["a", "event: response.completed", "é"], 3)),
    ("responses", response(7, ["a"], 3, "response.failed")),
]


def standing(stream, out: bytes):
    usage = stream.usage()
    counts = usage and (usage.prompt_tokens, usage.generated_tokens, usage.cached_tokens)
    return out, counts, stream.final, stream.done, stream.failed, stream.text()


def told(maker: str, pieces: list[bytes]):
    """How it stands after each piece, by the bytes that have come, and what the end adds."""
    stream, out, size, after = MAKERS[maker](), b"", 0, {}
    for piece in pieces:
        out += stream.feed(piece)
        size += len(piece)
        after[size] = standing(stream, out)
    return after, standing(stream, out + stream.finish())


@pytest.mark.parametrize(("maker", "data"), ALL)
def test_a_stream_stands_the_same_at_each_byte_however_it_came(maker, data):
    bytewise, end = told(maker, [data[at : at + 1] for at in range(len(data))])
    for cut in range(1, len(data) + 1):
        after, last = told(maker, [data[:cut], data[cut:]])
        assert after[cut] == bytewise[cut]
        assert last == end


@given(one=st.sampled_from(ALL), cuts=st.lists(st.integers(0, 5000), max_size=12))
@examples(300)
def test_a_stream_stands_the_same_after_any_pieces(one, cuts):
    maker, data = one
    bytewise, end = told(maker, [data[at : at + 1] for at in range(len(data))])
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    after, last = told(maker, [data[start:stop] for start, stop in pairwise(edges)])
    assert last == end
    assert all(bytewise[size] == one for size, one in after.items())


def test_no_usage_is_left_where_none_was_asked_for():
    for name in ("plain", "named by its engine", "details", "two choices"):
        choices = "chat, choices" if name == "two choices" else "chat, no usage"
        out, counts, final, *_ = told(choices, [STREAMS[name]])[1]
        assert b"usage" not in out
        assert final
        assert counts[0] == 5
