"""Who runs, at what pace, until when. One slot is one HTTP request, however many answers it has.

A request waits for a slot, runs, and leaves; at any moment its client may go or the process be told to stop:

    waiting ──slot──> running ──> left          counted as success only if the answer was complete
       └──────────client gone, shutdown───┘
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from engines.simulator.answers import Answer
from engines.simulator.counters import Counters
from engines.simulator.errors import ClientLeft, EngineFailure
from engines.simulator.misbehaviour import Faults

_AT_ONCE = 64  # tokens in one write, where no delay is asked for
Receive = Callable[[], Awaitable[dict[str, Any]]]


class AnswerCut(Exception):
    """A misbehaviour: the rest of the answer is not sent. `politely`: the HTTP message is ended as if it were whole."""

    def __init__(self, politely: bool) -> None:
        super().__init__()
        self.politely = politely


@dataclass(eq=False, slots=True)
class Generation:
    """One request, from its arrival on. `generated` counts all its answers' tokens so far."""

    prompt_tokens: int
    answers: list[Answer]
    faults: Faults
    token_seconds: float
    first_token_seconds: float
    generated: int = 0
    arrived: float = field(default_factory=time.monotonic)
    scheduled: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    task: "asyncio.Task[None] | None" = None
    end: type[Exception] | None = None
    """Why `task` was cancelled by us: what its cancellation is turned into."""

    @property
    def steps(self) -> int:
        return max(len(answer.pieces) for answer in self.answers)

    def stop(self, end: type[Exception]) -> None:
        """Ends it from outside. The first reason counts; a request that has ended is left alone."""
        if self.task is None or self.end is not None:
            return
        self.end = end
        self.task.cancel()


class Engine:
    """`dead` engines refuse all generation, and /health says so."""

    def __init__(self, counters: Counters, max_num_seqs: int, unhealthy_after: int | None = None) -> None:
        self.counters = counters
        self.running: set[Generation] = set()
        self.waiting: deque[tuple[Generation, asyncio.Future[None]]] = deque()
        self.asleep: set[str] = set()
        """What of its memory sleeps."""
        self.sleep_level = 0
        self.weights_lost = False
        """What it says is nonsense."""
        self.idle = asyncio.Event()
        self.idle.set()
        self._present: set[Generation] = set()
        self._max_num_seqs = max_num_seqs
        self._unhealthy_after = unhealthy_after
        self._requests = 0
        self._closed = False

    @property
    def dead(self) -> bool:
        return self._unhealthy_after is not None and self._requests >= self._unhealthy_after

    @property
    def kv_tokens(self) -> int:
        return sum(generation.prompt_tokens + generation.generated for generation in self.running)

    def abort_all(self) -> None:
        """Ends every request as vLLM does when it is told to stop, and refuses new ones."""
        self._closed = True
        for generation in list(self._present):
            generation.stop(EngineFailure)

    def fall_asleep(self, level: int, tags: Collection[str]) -> None:
        """Aborts what it works on. One that sleeps stays as it is."""
        if self.asleep:
            return
        for generation in list(self.running):
            generation.stop(EngineFailure)
        self.asleep, self.sleep_level = set(tags), level
        self.weights_lost = level == 2

    def wake(self, tags: Collection[str]) -> None:
        """When the last of its memory is awake, those who have waited get their turn."""
        self.asleep -= set(tags)
        if not self.asleep:
            self.sleep_level = 0
            self._admit()

    @asynccontextmanager
    async def present(self, generation: Generation, receive: Receive) -> AsyncIterator[None]:
        """Within: the client's going raises ClientLeft and a shutdown EngineFailure, wherever the request is."""
        if self.dead or self._closed:
            raise EngineFailure
        self._requests += 1
        generation.task = asyncio.current_task()
        watcher = asyncio.ensure_future(_until_disconnect(receive))
        watcher.add_done_callback(lambda done: done.cancelled() or generation.stop(ClientLeft))
        self._present.add(generation)
        self.idle.clear()
        try:
            yield
        except asyncio.CancelledError:
            if generation.end is None or generation.task is None:
                raise
            generation.task.uncancel()
            raise generation.end from None
        finally:
            generation.task = None
            self._present.discard(generation)
            if not self._present:
                self.idle.set()
            watcher.cancel()

    @asynccontextmanager
    async def slot(self, generation: Generation) -> AsyncIterator[None]:
        """Waits, first come first served, until one of `max_num_seqs` slots is free."""
        await self._enter(generation)
        generation.scheduled = time.monotonic()
        try:
            yield
        finally:
            self._leave(generation)

    async def _enter(self, generation: Generation) -> None:
        if self._has_room():
            self.running.add(generation)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (generation, turn)
        self.waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            with suppress(ValueError):
                self.waiting.remove(entry)
            self._leave(generation)  # for its turn may have come in the moment in which it was cancelled
            raise

    def _leave(self, generation: Generation) -> None:
        self.running.discard(generation)
        self._admit()

    def _has_room(self) -> bool:
        return not self.asleep and len(self.running) < self._max_num_seqs

    def _admit(self) -> None:
        while self.waiting and self._has_room():
            following, turn = self.waiting.popleft()
            if turn.cancelled():
                continue  # it is about to leave the queue by itself
            self.running.add(following)
            turn.set_result(None)

    async def pace(self, generation: Generation) -> AsyncIterator[tuple[int, int]]:
        """Yields (first, last) whenever tokens first..last-1 of each answer are due, several when it is late.

        Raises EngineFailure or AnswerCut, hangs, or ends the process, where the request's faults say so.
        """
        steps, delay = generation.steps, generation.token_seconds
        fault, after = generation.faults.mid_answer() or (None, steps)
        last = min(after, steps)
        if generation.first_token_seconds:
            await asyncio.sleep(generation.first_token_seconds)
        at_once = max(1, _AT_ONCE // len(generation.answers))
        begin = time.monotonic()
        done = 0
        while done < last:
            # Half a step early is in time: the loop's timers are that coarse, and the mean stays right.
            due = int((time.monotonic() - begin) / delay + 1.5) if delay else done + at_once
            if due <= done:
                await asyncio.sleep(begin + done * delay - time.monotonic())
                continue
            due = min(due, last)
            yield done, due
            done = due
            if not delay:
                await asyncio.sleep(0)
        if fault is not None and after <= steps:
            await _happen(fault)

    def count(self, generation: Generation, first: int, last: int, tokens: int) -> None:
        """Tells that steps first..last-1, `tokens` tokens in all, are out."""
        now = time.monotonic()
        if first == 0:
            generation.first_token = now
            self.counters.prompt_tokens += generation.prompt_tokens
            self.counters.observe("time_to_first_token_seconds", now - generation.arrived)
        else:
            self.counters.observe_between(now - generation.last_token)
        if last - first > 1:
            self.counters.observe_between(0.0, last - first - 1)
        generation.last_token = now
        generation.generated += tokens
        self.counters.generation_tokens += tokens

    def finished(self, generation: Generation, max_tokens: int) -> None:
        """Tells that the whole answer is out."""
        now = time.monotonic()
        observe = self.counters.observe
        for answer in generation.answers:
            self.counters.success[answer.finish_reason] += 1
            observe("request_generation_tokens", len(answer.pieces))
        observe("request_prompt_tokens", generation.prompt_tokens)
        observe("request_params_max_tokens", max_tokens)
        observe("request_params_n", len(generation.answers))
        observe("e2e_request_latency_seconds", now - generation.arrived)
        observe("request_queue_time_seconds", generation.scheduled - generation.arrived)
        observe("request_inference_time_seconds", now - generation.scheduled)
        observe("request_prefill_time_seconds", generation.first_token - generation.scheduled)
        observe("request_decode_time_seconds", now - generation.first_token)


async def _happen(fault: str) -> None:
    if fault == "dies-after":
        await asyncio.sleep(0.05)  # what was written has to leave the process first
        os._exit(1)
    if fault == "error-after":
        raise EngineFailure
    if fault == "hangs-after":
        await asyncio.get_running_loop().create_future()
    raise AnswerCut(politely=fault == "truncated-after")


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
