"""Many clients at once, in one event loop: each has a connection of its own, kept alive, and leaves when it likes."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE_S = 60


class Client:
    """Asks for chat completions that end after exactly `max_tokens`, unless the portal grants fewer."""

    def __init__(self, port: int, token: str, model: str) -> None:
        self._port, self._token, self._model = port, token, model
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, max_tokens: int, *, stream: bool = False) -> tuple[int, Any]:
        """(status, the usage or the error)."""
        reader = await self._send(max_tokens, stream)
        status, body = await self._answer(reader)
        if status != 200:
            return status, json.loads(body)["error"]
        if stream:
            *_, last, done, _ = body.split(b"\n\n")
            assert done == b"data: [DONE]", body[-200:]
            body = last.removeprefix(b"data: ")
        return status, json.loads(body)["usage"]

    async def leave(self, max_tokens: int, *, stream: bool, after_s: float) -> None:
        """Hangs up so long after asking, whatever has come by then."""
        await self._send(max_tokens, stream)
        await asyncio.sleep(after_s)
        self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _send(self, max_tokens: int, stream: bool) -> asyncio.StreamReader:
        wish: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": "Hello"}],
            "ignore_eos": True,
        }
        wish |= {"max_tokens": max_tokens, "stream": stream} | (
            {"stream_options": {"include_usage": True}} if stream else {}
        )
        body = json.dumps(wish).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        self._streams[1].write(head.encode() + body)
        return self._streams[0]

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        async with asyncio.timeout(PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head[9:12])
            if b"transfer-encoding: chunked" not in head:
                length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
                return status, await reader.readexactly(length)
            parts = []
            while size := int(await reader.readline(), 16):
                parts.append(await reader.readexactly(size))
                await reader.readexactly(2)
            await reader.readexactly(2)
            return status, b"".join(parts)


async def crowd(
    port: int, tokens: list[str], model: str, act: Callable[[Client, int], Awaitable[None]], times: int
) -> None:
    """Each token's client acts until all together have `times` times; `act` gets the number of the act."""
    numbers = iter(range(times))

    async def one(client: Client) -> None:
        for number in numbers:
            await act(client, number)
        client.close()

    async with asyncio.TaskGroup() as group:
        for token in tokens:
            group.create_task(one(Client(port, token, model)))


class Passers:
    """People of whom a share hangs up. `told`: the (prompt, generated) tokens of whole answers; `refused`: what was
    said to the others."""

    def __init__(self, seed: int, leaving: float) -> None:
        self._luck = random.Random(seed)
        self._leaving = leaving
        self.told: Counter[tuple[int, int]] = Counter()
        self.refused: Counter[str] = Counter()
        self.left = 0

    async def act(self, client: Client, number: int) -> None:
        stream, max_tokens = self._luck.random() < 0.5, self._luck.randint(1, 40)
        if self._luck.random() < self._leaving:
            await client.leave(max_tokens, stream=stream, after_s=self._luck.choice([0, 0.001, 0.01, 0.05]))
            self.left += 1
            return
        status, said = await client.ask(max_tokens, stream=stream)
        if status == 200:
            self.told[said["prompt_tokens"], said["completion_tokens"]] += 1
        else:
            self.refused[f"{status} {said}"] += 1
