"""The filter between an engine's stream and the client's, at every place where a packet may end."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.sse import MAX_EVENT_BYTES, BadStream, Filter, answer_usage
from tests.fakes.upstream import event, last_event, sse

DONE = b"[DONE]"


def without_usage(chunk: bytes) -> bytes:
    return chunk[: chunk.rindex(b',"usage"')] + b"}"


def run(stream: Filter, *packets: bytes) -> bytes:
    return b"".join(stream.feed(packet) for packet in packets) + stream.finish()


def counts(stream: Filter) -> tuple[int, int]:
    return stream.usage().prompt_tokens, stream.usage().generated_tokens


def silent() -> Filter:
    return Filter(keep_usage=False, keep_continuous=False)


hostile_text = st.text(max_size=40) | st.sampled_from(
    ['"usage":{"prompt_tokens":9}', ',"usage":{', "\n\n", "data: [DONE]", "}", '"choices":[]',
     'data: {"error"', "é\u2028😀"]
)  # fmt: skip


@given(texts=st.lists(hostile_text, min_size=1, max_size=5), cuts=st.lists(st.integers(0, 3000), max_size=8))
def test_whatever_is_said_and_wherever_packets_end_the_client_gets_the_stream_without_usage(texts, cuts):
    chunks = [event(text, 7, count) for count, text in enumerate(texts, 1)]
    whole = sse(*chunks, last_event(7, len(texts)), DONE)
    edges = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    stream = silent()
    out = run(stream, *(whole[start:end] for start, end in pairwise(edges)))
    assert out == sse(*map(without_usage, chunks), DONE)
    assert (*counts(stream), stream.final, stream.done) == (7, len(texts), True, True)
    assert not stream.failed


USUAL = b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":%b}]%b,"usage":%b%b}\n\n'


@given(
    said=hostile_text.filter(lambda text: "\n" not in text),
    reason=st.sampled_from([b"null", b'"stop"', b'"length"']),
    before=st.sampled_from([b"", b',"system_fingerprint":"f"']),
    usage=st.sampled_from([b'{"prompt_tokens":1}', b'{"a":{"b":1},"c":2}', b"null", b"{", b'{"a":"}"}']),
    after=st.sampled_from([b"", b',"y":{"usage":{"z":1}}', b',"system_fingerprint":"f"']),
)
def test_the_short_way_of_an_event_is_the_long_one(said, reason, before, usage, after):
    one = USUAL % (json.dumps(said)[1:-1].encode(), reason, before, usage, after)
    short, long = silent(), silent()
    assert outcome(short.feed, one) == outcome(long._event, one)
    assert (short._latest, short.final, short._held) == (long._latest, long.final, long._held)


def outcome(read, one):
    try:
        return read(one)
    except BadStream as error:
        return str(error)


def test_each_single_cut_gives_the_same():
    whole = sse(event("a", 5, 1), event("b", 5, 2), last_event(5, 2), DONE)
    expected = run(silent(), whole)
    for cut in range(len(whole)):
        assert run(silent(), whole[:cut], whole[cut:]) == expected


def test_a_cut_off_stream_has_the_count_of_its_last_whole_chunk():
    stream = silent()
    stream.feed(sse(event("a", 5, 1), event("b", 5, 2)) + b'data: {"choices":[{"index":0}],"usage":{"prompt_to')
    assert (*counts(stream), stream.final) == (5, 2, False)


def test_asked_for_usage_passes_untouched():
    whole = sse(event("a", 5, 1), last_event(5, 1), DONE)
    assert run(Filter(keep_usage=True, keep_continuous=True), whole) == whole
    kept = run(Filter(keep_usage=True, keep_continuous=False), whole)
    assert kept == sse(without_usage(event("a", 5, 1)), last_event(5, 1), DONE)


def test_several_choices_are_counted_together_until_the_final_count():
    stream = Filter(keep_usage=False, keep_continuous=False, choices=2, choices_per_prompt=2)
    stream.feed(sse(event("a", 5, 1, index=0), event("b", 5, 4, index=1), event("c", 5, 2, index=0)))
    assert counts(stream) == (5, 6)
    stream.feed(sse(last_event(5, 7)))
    assert (*counts(stream), stream.final) == (5, 7, True)


def test_several_prompts_are_counted_together():
    stream = Filter(keep_usage=False, keep_continuous=False, choices=2, choices_per_prompt=1)
    stream.feed(sse(event("a", 5, 1, index=0), event("b", 9, 4, index=1)))
    assert counts(stream) == (14, 5)


def test_details_of_the_prompt_are_understood_and_taken_out():
    detailed = event("a", 5, 1)[:-2] + b',"prompt_tokens_details":{"cached_tokens":4}}}'
    stream = silent()
    assert stream.feed(sse(detailed)) == sse(without_usage(event("a", 5, 1)))
    assert stream.usage().cached_tokens == 4
    nothing = event("a", 5, 1)[:-2] + b',"prompt_tokens_details":null}}'
    assert silent().feed(sse(nothing)) == sse(without_usage(event("a", 5, 1)))


def test_several_details_are_taken_out_as_a_whole():
    details = b',"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1}}'
    stream = silent()
    chunk = event("a", 5, 1)[:-2] + details + b',"prompt_text":null}'
    assert stream.feed(sse(chunk)) == sse(without_usage(event("a", 5, 1))[:-1] + b',"prompt_text":null}')
    assert (stream.usage().prompt_tokens, stream.usage().cached_tokens) == (5, 4)


def test_a_usage_without_end_is_refused():
    with pytest.raises(BadStream):
        silent().feed(b'data: {"usage":{"prompt_tokens":1\n\n')


def test_an_error_event_is_no_success_although_done_follows():
    stream = silent()
    told = stream.feed(sse(b'{"error": {"message": "boom", "type": "Dead", "param": null, "code": 500}}', DONE))
    assert (stream.failed, stream.done) == (True, True)
    error = {"message": "boom", "type": "Dead", "param": None, "code": "engine_error"}
    assert told == sse(json.dumps({"error": error}, separators=(",", ":")).encode(), DONE)


def test_an_event_without_end_is_refused():
    stream = silent()
    stream.feed(b"x" * MAX_EVENT_BYTES)
    with pytest.raises(BadStream):
        stream.feed(b"x")


def test_a_usage_that_is_no_usage_is_refused_when_it_is_asked_for():
    stream = silent()
    stream.feed(b'data: {"choices":[{"index":0}],"usage":{"prompt_tokens":"many"}}\n\n')
    with pytest.raises(BadStream):
        stream.usage()


def finished(text: str, prompt: int, generated: int, index: int = 0, ending: bytes = b"") -> bytes:
    """A choice's last chunk, with `ending` before its end."""
    chunk = event(text, prompt, generated, index).replace(b'"finish_reason":null', b'"finish_reason":"stop"')
    return chunk[:-1] + ending + b"}"


PRINT = b',"system_fingerprint":"vllm-1"'


def test_the_fingerprint_is_in_the_last_message_that_the_client_gets():
    told = sse(event("a", 5, 1), finished("b", 5, 2), last_event(5, 2)[:-1] + PRINT + b"}", DONE)
    expected = sse(without_usage(event("a", 5, 1)), without_usage(finished("b", 5, 2))[:-1] + PRINT + b"}", DONE)
    for cut in range(0, len(told), 7):
        assert run(silent(), told[:cut], told[cut:]) == expected
    kept = Filter(keep_usage=True, keep_continuous=False)
    assert run(kept, told) == told.replace(event("a", 5, 1), without_usage(event("a", 5, 1))).replace(
        finished("b", 5, 2), without_usage(finished("b", 5, 2))
    )


def test_a_known_fingerprint_is_in_the_last_message_of_each_choice():
    told = sse(finished("a", 5, 1), finished("b", 5, 1, index=1), last_event(5, 2)[:-1] + PRINT + b"}", DONE)
    known = {}
    both = {"keep_usage": False, "keep_continuous": False, "choices": 2, "choices_per_prompt": 2, "known": known}
    first = run(Filter(**both), told)
    assert (first.count(b'"stop"'), first.count(PRINT)) == (2, 1), "that of the first was not known in time"
    assert run(Filter(**both), told).count(PRINT + b"}\n\n") == 2


def test_an_engine_without_a_fingerprint_loses_nothing():
    told = sse(event("a", 5, 1), finished("b", 5, 2), last_event(5, 2), DONE)
    assert run(silent(), told) == sse(without_usage(event("a", 5, 1)), without_usage(finished("b", 5, 2)), DONE)
    broken_off = told[: -len(sse(last_event(5, 2), DONE))]
    assert b'"stop"' in run(silent(), broken_off)


def test_null_usage_passes():
    assert silent().feed(b'data: {"usage":null}\n\n') == b'data: {"usage":null}\n\n'


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"usage":null}', b'{"usage":5}', b"\xff"])
def test_an_answer_without_usage_has_none(body):
    assert answer_usage(body) is None
