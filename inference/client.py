"""The client's side of a request that came the long way: writes the answer, and notices a client that leaves."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from inference.errors import EngineError
from inference.upstream import Headers, header_of

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

EVENT_STREAM = b"text/event-stream"
EVENTS: Headers = [(b"content-type", EVENT_STREAM + b"; charset=utf-8"), (b"cache-control", b"no-cache")]
# A request that is done before this is not worth a task that watches its client.
WATCH_AFTER_S = 0.02


class Reply:
    """One answer to one client; one start, or two after `comment`. Its task is cancelled when the client leaves."""

    def __init__(
        self, send: Send, identity: str, identity_headers: tuple[bytes, ...], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._send = send
        self._identity = [(name, identity.encode()) for name in identity_headers]
        self._loop = loop
        self._serving: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.gone = False
        self.started = False
        self._begun = False
        """By a comment, before the engine was asked."""

    async def start(self, status: int, headers: Headers) -> None:
        if self._begun:
            if header_of(headers, b"content-type")[: len(EVENT_STREAM)] != EVENT_STREAM:
                raise EngineError("The engine's answer is no event stream.")
            return
        self.started = True
        headers = [*headers, *self._identity]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def comment(self, text: str) -> None:
        """A line of an event stream that says how it goes and that no client takes for an event. With it the answer
        has begun."""
        if not self.started:
            await self.start(200, EVENTS)
            self._begun = True
        await self.send(b": %b\n\n" % text.encode())

    async def json(self, value: Any, status: int = 200) -> None:
        data = msgspec.json.encode(value)
        await self.start(status, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))])
        await self.send(data, more=False)

    async def until_gone(self, serving: Awaitable[None], receive: Receive) -> None:
        """Serves until done, or cancels it as soon as the client leaves. Raises what serving raises."""
        task = self._serving = asyncio.current_task(self._loop)
        assert task is not None
        watching = self._loop.call_later(WATCH_AFTER_S, self._start_watching, receive)
        try:
            await serving
        except asyncio.CancelledError:
            if not self.gone or task.uncancel() > 0:
                raise
        finally:
            self._serving = None
            watching.cancel()
            if self._watcher:
                self._watcher.cancel()

    def _start_watching(self, receive: Receive) -> None:
        self._watcher = self._loop.create_task(self._watch_for_leaving(receive))

    async def _watch_for_leaving(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._serving and not self.gone:
            self.gone = True
            self._serving.cancel()
