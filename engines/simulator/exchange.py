"""One HTTP request and its answer, in ASGI's terms."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from engines.simulator.engine import Receive
from engines.simulator.errors import ClientLeft

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Exchange:
    """One request and what is sent for it. `started`: the status has gone, so an error can only be an event."""

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send, path: str, echo_id: bool) -> None:
        self.method: str = scope["method"]
        self.path = path
        self.query: bytes = scope["query_string"]
        self.receive = receive
        self.status = 0
        self.split_characters = False
        self.failure = b""
        """What ends a stream in which the engine failed; b"": nothing does, and the connection breaks."""
        self._send = send
        self._transport = getattr(getattr(send, "__self__", None), "transport", None)
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = self.header(b"x-request-id") or uuid.uuid4().hex
        self._own_headers = [(b"x-request-id", self.request_id.encode("latin-1"))] if echo_id else []

    @property
    def started(self) -> bool:
        return self.status != 0

    def header(self, name: bytes) -> str:
        return self._headers.get(name, b"").decode("latin-1")

    async def body(self) -> bytes:
        """Raises ClientLeft if it does not come whole."""
        parts, more = [], True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        return b"".join(parts)

    async def start(self, status: int, content_type: str, *headers: tuple[bytes, bytes]) -> None:
        self.status = status
        own = [(b"content-type", content_type.encode()), *self._own_headers] if content_type else self._own_headers
        await self._send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})

    async def write(self, data: bytes, more: bool = True) -> None:
        """Raises ClientLeft instead of dropping the data, as uvicorn does while a connection is being closed: what is
        counted after this call has been handed over."""
        if self._transport is not None and self._transport.is_closing():
            raise ClientLeft
        if self.split_characters:
            data = await self._write_split(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _write_split(self, data: bytes) -> bytes:
        """Sends all but the last part, cutting after the first byte of each character that has several."""
        begin = 0
        for at, byte in enumerate(data):
            if byte >= 0xC0:
                await self._send({"type": "http.response.body", "body": data[begin : at + 1], "more_body": True})
                begin = at + 1
                await asyncio.sleep(0.005)  # or the two halves would travel in one packet
        return data[begin:]

    async def answer(
        self, status: int, data: bytes, content_type: str = JSON, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        await self.start(status, content_type, (b"content-length", b"%d" % len(data)), *headers)
        await self.write(data, more=False)
