"""What of a prompt is not text, and what an engine would fetch for a client."""

import json

import pytest

from inference.endpoints import CHAT, ENDPOINTS, MESSAGES, RESPONSES
from inference.errors import InvalidRequest
from vllm_portal.config import get_config

DATA = "data:image/png;base64,iVBORw0KGgo="


def user(*parts: object) -> dict:
    return {"role": "user", "content": list(parts)}


def picture(url: object) -> dict:
    return {"type": "image_url", "image_url": url}


def parse(endpoint, **fields: object):
    return endpoint.parse(json.dumps({"model": "m", "max_tokens": 1, **fields}).encode())


INSIDE = "http://169.254.169.254/latest/meta-data/"
SEEN = {"type": "input_image", "image_url": INSIDE}
LINKED = {"type": "image", "source": {"type": "url", "url": INSIDE}}
FETCHED = [
    (CHAT, {"messages": [user(picture({"url": INSIDE}))]}),
    (CHAT, {"messages": [user(picture(INSIDE))]}),
    (CHAT, {"messages": [user({"image_url": {"url": INSIDE}})]}),
    (CHAT, {"messages": [user({"type": "audio_url", "audio_url": {"url": INSIDE}})]}),
    (CHAT, {"messages": [user({"type": "video_url", "video_url": {"url": "HTTP://10.0.0.1/"}})]}),
    (CHAT, {"messages": [user(picture({"url": "file:///etc/passwd"}))]}),
    (CHAT, {"messages": [user(picture({"url": " http://10.0.0.1/"}))]}),
    (CHAT, {"messages": [user(picture({"url": "//10.0.0.1/"}))]}),
    (RESPONSES, {"input": [user(SEEN)]}),
    (RESPONSES, {"input": [user({"type": "input_file", "file_url": INSIDE})]}),
    (RESPONSES, {"input": [{"type": "function_call_output", "output": [SEEN]}]}),
    (MESSAGES, {"messages": [user(LINKED)]}),
    (MESSAGES, {"messages": [user({"type": "tool_result", "content": [LINKED]})]}),
    (ENDPOINTS["/v1/embeddings"], {"messages": [user(picture({"url": INSIDE}))]}),
    (ENDPOINTS["/v1/rerank"], {"query": "x", "documents": {"content": [picture({"url": INSIDE})]}}),
    (ENDPOINTS["/v1/score"], {"text_1": "x", "text_2": {"content": [picture({"url": INSIDE})]}}),
    (ENDPOINTS["/tokenize"], {"messages": [user(picture({"url": INSIDE}))]}),
]  # fmt: skip


@pytest.mark.parametrize(("endpoint", "fields"), FETCHED, ids=str)
def test_no_engine_fetches_an_address_for_a_client(endpoint, fields):
    with pytest.raises(InvalidRequest) as refusal:
        parse(endpoint, **fields)
    assert (refusal.value.status, refusal.value.code) == (400, "media_url_not_allowed")
    assert "data:" in refusal.value.message


def test_a_link_is_seen_behind_escapes():
    hidden = json.dumps({"model": "m", "messages": [user(picture({"url": INSIDE}))]}).replace(
        "image_url", "im\\u0061ge_url"
    )
    with pytest.raises(InvalidRequest):
        CHAT.parse(hidden.encode())


def test_content_that_is_sent_along_passes_and_is_not_bounded_by_its_bytes():
    body = parse(CHAT, messages=[user({"type": "text", "text": "what?"}, picture({"url": DATA}))])
    assert (body.text_only, CHAT.prompt_bound(body, 4096)) == (False, 4096)
    anthropic = user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}})
    assert not parse(MESSAGES, messages=[anthropic]).text_only
    heard = user({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}})
    assert not parse(CHAT, messages=[heard]).text_only


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": 'Look at "image_url": "http://10.0.0.1/"'},
        user({"type": "text", "text": f"image_url {INSIDE}"}),
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"image_url":"http://x"}'}}]},
        user({"type": "tool_use", "name": "f", "input": {"image_url": "http://x"}}),
        {"role": "assistant", "content": "a", "annotations": [{"type": "url_citation", "url": "http://x"}]},
    ],
)
def test_words_about_links_are_words(message):
    body = parse(CHAT, messages=[message])
    assert body.text_only


def test_tools_may_be_about_pictures():
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"image_url": {"type": "string"}}}},
    }
    assert parse(CHAT, messages=[], tools=[tool]).text_only


def test_an_operator_may_allow_links_but_no_files(monkeypatch):
    monkeypatch.setenv("PORTAL_ALLOW_MEDIA_URLS", "true")
    get_config.cache_clear()
    try:
        parse(CHAT, messages=[user(picture({"url": "https://example.org/cat.png"}))])
        with pytest.raises(InvalidRequest):
            parse(CHAT, messages=[user(picture({"url": "file:///etc/passwd"}))])
    finally:
        monkeypatch.undo()
        get_config.cache_clear()
