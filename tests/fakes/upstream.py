"""An engine of raw bytes: a test says what it answers, down to the packet. Not a stand-in for vLLM, which is
`engines.simulator`; this one is for what no server would do on purpose."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Received:
    """One request as the engine got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


Answer = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes, status: int = 200, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class RawEngine:
    """Serves from a thread of its own until the test ends. `answer` may be replaced between requests."""

    answer: Answer
    received: list[Received] = field(default_factory=list)
    closed_early: int = 0
    """Connections that the portal closed while an answer was under way."""
    port: int = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async for request in _requests(reader):
                self.received.append(request)
                if request.path == "/tokenize":
                    text = request.body.decode()
                    writer.write(http(json.dumps({"count": len(text.split()), "max_model_len": 1024}).encode()))
                    await writer.drain()
                    continue
                gone = asyncio.ensure_future(reader.read(1))
                answering = asyncio.ensure_future(self.answer(request, writer))
                await asyncio.wait({gone, answering}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done() or isinstance(answering.exception(), ConnectionError):
                    self.closed_early += 1
                    answering.cancel()
                    return
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone
                await answering
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    def start(self) -> "RawEngine":
        ready = threading.Event()

        async def main() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            ready.set()
            await self._stop.wait()
            server.close()

        self._thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
        self._thread.start()
        ready.wait(10)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[Received]:
    while head := await _head(reader):
        first, *lines = head.decode().rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, path, _ = first.split(" ")
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        yield Received(method, path, headers, body)


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def completion(text: str = "hello", prompt: int = 7, generated: int = 3, **extra: object) -> bytes:
    """A chat completion as vLLM writes it."""
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "tiny",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated},
            **extra,
        }
    ).encode()


def event(text: str, prompt: int, generated: int, index: int = 0) -> bytes:
    """One chunk of a stream with continuous usage, as vLLM writes it: no spaces, usage last."""
    choice = {"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return _chunk([choice], prompt, generated)


def last_event(prompt: int, generated: int) -> bytes:
    return _chunk([], prompt, generated)


def _chunk(choices: list, prompt: int, generated: int) -> bytes:
    usage = {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    return json.dumps({**head, "choices": choices, "usage": usage}, separators=(",", ":")).encode()


def sse(*events: bytes) -> bytes:
    return b"".join(b"data: " + event + b"\n\n" for event in events)


def streamed(*packets: bytes, end: bool = True) -> Answer:
    """An answer that sends each packet as one HTTP chunk. `end` False: the connection closes without a proper end."""

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for packet in packets:
            writer.write(chunk(packet))
            await writer.drain()
        if end:
            writer.write(b"0\r\n\r\n")
        else:
            writer.close()

    return answer


def whole(body: bytes, status: int = 200, content_type: str = "application/json") -> Answer:
    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(http(body, status, content_type))

    return answer
