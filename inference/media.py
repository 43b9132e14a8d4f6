"""What of a prompt is not text: images, sound, video, files.

An engine fetches the pictures that a prompt links to, from where the engine stands and not the client: an address
inside the machines' own network would be read for whoever asks. So only data: links pass, unless the operator allows
http and https.
"""

import re
from typing import Any

import msgspec

from inference.errors import InvalidRequest
from vllm_portal.config import get_config

# Only an object can hold anything but text, and it names what it holds: by a type, or as vLLM also takes it by a link.
_TYPE, _LINK = b'"type"', b'_url"'
_MEDIA = (b"image", b"audio", b"video", b'"file', b'"document"', b'"source"', b'"multi_modal')
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
_LINKS = ("image_url", "audio_url", "video_url", "file_url")
# What a model asked of a tool, or a tool's name for something: data that the engine does not follow.
_PLAIN = ("arguments", "tool_calls", "function_call")


def may_hold_media(raw: bytes) -> bool:
    """False for most of what is but text, at little cost: `holds_media` need not look at any part of it."""
    # `find` and not `in`, which tries its left side as a number first and costs three times as much.
    return raw.find(_TYPE) >= 0 or raw.find(_LINK) >= 0 or raw.find(b"\\u00") >= 0


def holds_media(field: str, raw: bytes) -> bool:
    """Whether a prompt's raw JSON may hold anything but text. Raises InvalidRequest for a link that an engine would
    follow and may not."""
    if raw.find(b"{") < 0:
        return False
    if raw.find(b"\\u00") >= 0 and _ESCAPED_ASCII.search(raw):  # "\u0069mage_url" is image_url
        raw = msgspec.json.encode(_decoded(field, raw))
    if (raw.find(_TYPE) < 0 and raw.find(_LINK) < 0) or not _names_media(raw):
        return False
    found = _Found(field)
    found.look_at(_decoded(field, raw))
    return found.media


def _names_media(raw: bytes) -> bool:
    return any(mark in raw for mark in _MEDIA)


def _decoded(field: str, raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{field} is not JSON: {error}", param=field, code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest(f"{field} is nested too deeply.", param=field, code="invalid_json") from None


class _Found:
    def __init__(self, field: str) -> None:
        self.media = False
        self._field = field

    def look_at(self, value: Any) -> None:
        """Walks lists and objects. What was decoded is not nested deeper than the decoder goes."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, list):
                waiting += value
            elif isinstance(value, dict):
                waiting += self._parts(value)

    def _parts(self, part: dict[str, Any]) -> list[Any]:
        kind = part.get("type")
        kind = kind if isinstance(kind, str) else ""
        if kind in ("tool_use", "function_call", "custom_tool_call"):
            return []
        if kind.removeprefix("input_").startswith(("image", "audio", "video", "file", "document", "multi_modal")):
            self.media = True
        for name in _LINKS:
            if name in part:
                self._link(part[name])
        if kind == "url":  # as Anthropic's `source`
            self._link(part.get("url"))
        return [inner for name, inner in part.items() if name not in _PLAIN]

    def _link(self, value: Any) -> None:
        if isinstance(value, dict):
            value = value.get("url")
        if not isinstance(value, str):
            return
        self.media = True
        scheme = value.strip()[:6].lower()
        if scheme.startswith("data:"):
            return
        if scheme.startswith("http") and get_config().allow_media_urls:
            return
        raise InvalidRequest(
            "A link is not fetched for you. Send the content itself, as a data: URL such as "
            "data:image/png;base64,…; an admin can allow http and https links (allow_media_urls).",
            param=self._field,
            code="media_url_not_allowed",
        )
