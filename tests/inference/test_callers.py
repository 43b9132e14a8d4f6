"""What is remembered of callers, between their tokens and the database."""

import asyncio

from inference.callers import Callers
from inference.routing import Caller
from tests.fakes.plane import ALICE

HEADER = b"Bearer a-token"


def test_what_was_read_before_a_change_is_not_remembered_after_it():
    in_database, read = [ALICE], []

    async def scenario() -> list[float]:
        answered = asyncio.Event()

        async def fetch(token: str):
            read.append(in_database[0])
            await answered.wait()
            return read[-1]

        callers = Callers(fetch)
        first = asyncio.ensure_future(callers.identify(HEADER))
        await asyncio.sleep(0)
        in_database[0] = Caller(1, "alice", False, 1, 2**40, weight=3.0)
        callers.forget()
        answered.set()
        return [(await first).weight, *[(await callers.identify(HEADER)).weight for _ in range(2)]]

    assert asyncio.run(scenario()) == [1.0, 3.0, 3.0]
    assert len(read) == 2
