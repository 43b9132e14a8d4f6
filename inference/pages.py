"""Django's pages and API, served by another process: an ASGI application that passes each request on.

One interpreter runs one thread at a time, so a page that computes for 200 ms would hold up every stream of its process.
The body is read whole, as Django does it too; the answer comes back as it is made, and a client that leaves ends it.
"""

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

import msgspec

from inference.client import Receive, Reply, Send
from inference.errors import ApiError
from inference.pool import Pool
from inference.relay import Pipe
from inference.upstream import CannotConnect, Headers, TimedOut, Timeouts, UpstreamError

logger = logging.getLogger(__name__)

CONNECT_S = 5.0
TOTAL_S = 24 * 3600.0  # a log can be followed for hours
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"}
)
_WAIT = b"""<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2><title>vllm-portal</title>
<p>The portal's pages are starting. This page looks again every two seconds."""


class Pages:
    def __init__(self, address: str, patience_s: float) -> None:
        """`address`: a unix socket. `patience_s`: how long a page may take to begin, and to go on."""
        self._address = address
        self._timeouts = Timeouts(CONNECT_S, patience_s, patience_s, TOTAL_S)
        self._pool: Pool | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        loop = asyncio.get_running_loop()
        reply = Reply(send, "", (), loop)
        try:
            await reply.until_gone(self._serve(scope, body, reply, loop), receive)
        except ApiError as error:
            if reply.started:
                raise ConnectionError(error.message) from None  # a cut must look like one
            await _excuse(dict(scope["headers"]), error, reply)

    async def _serve(
        self, scope: MutableMapping[str, Any], body: bytes, reply: Reply, loop: asyncio.AbstractEventLoop
    ) -> None:
        if self._pool is None or self._pool.loop is not loop:
            self._pool = Pool(loop, all_headers=True)
        page = _Page(loop)
        line = page.exchange = self._pool.request(
            self._address, _request(scope, body), self._timeouts, page, bodiless=scope["method"] == "HEAD"
        )
        try:
            await page.pour(reply)
        finally:
            if not page.ended:
                line.abandon()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class _Page(Pipe):
    """An answer on its way, as its taker."""

    ended = False

    def head(self, status: int, headers: Headers) -> None:
        self.begin(status, [header for header in headers if header[0] not in _HOP_BY_HOP])

    def data(self, data: bytes) -> None:
        self.write(data, True)

    def end(self) -> None:
        self.ended = True
        self.write(b"", False)

    def failed(self, error: UpstreamError) -> None:
        self.ended = True
        logger.error("the pages' process %s", error)
        self.fail(_as_api_error(error))


def _as_api_error(error: UpstreamError) -> ApiError:
    if isinstance(error, CannotConnect):
        text = "The portal's pages are starting, or ended and start again. Try again in a moment."
        return ApiError(text, status=503, code="unavailable", retry_after_s=2)
    if isinstance(error, TimedOut):
        return ApiError("The portal's pages did not answer in time.", status=504, code="timeout")
    return ApiError("The portal's pages broke off.", status=502, code="bad_gateway")


async def _excuse(headers: dict[bytes, bytes], error: ApiError, reply: Reply) -> None:
    data = msgspec.json.encode({"detail": error.message})
    fields = error.headers()
    if error.status == 503 and b"text/html" in headers.get(b"accept", b""):
        data, fields = _WAIT, [(b"content-type", b"text/html; charset=utf-8"), *fields[1:]]
    await reply.start(error.status, [*fields, (b"content-length", b"%d" % len(data))])
    await reply.send(data, more=False)


async def _body(receive: Receive) -> bytes | None:
    """None: the client left."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _request(scope: MutableMapping[str, Any], body: bytes) -> bytes:
    path = scope["raw_path"]
    if scope["query_string"]:
        path += b"?" + scope["query_string"]
    dropped = _HOP_BY_HOP | {b"content-length"}
    fields = [field for field in scope["headers"] if field[0] not in dropped]
    if body or scope["method"] in ("POST", "PUT", "PATCH"):
        fields.append((b"content-length", b"%d" % len(body)))
    lines = b"".join([b"%b: %b\r\n" % field for field in fields])
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (scope["method"].encode(), path, lines, body)
