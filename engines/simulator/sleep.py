"""vLLM's sleep, with nothing behind it but its states: what answers how meanwhile, and what comes of a wrong order.

As in vLLM a request that comes meanwhile waits, without an answer, until it is awake; what is worked on is aborted.
Level 2 forgets the weights: who wakes it without `reload_weights` gets nonsense.
"""

import asyncio
from urllib.parse import parse_qs

from engines.simulator import startup, wire
from engines.simulator.engine import Engine
from engines.simulator.errors import EngineFailure
from engines.simulator.exchange import Exchange
from engines.simulator.options import Options
from engines.simulator.requests import parse_json

TAGS = ("weights", "kv_cache")


class Sleep:
    """The routes of one engine that VLLM_SERVER_DEV_MODE=1 opens, as far as sleep needs them."""

    def __init__(self, options: Options, engine: Engine) -> None:
        self._seconds = options.sleep_seconds
        self._fails = options.sleep_fails
        self._engine = engine
        self.routes = {
            "/sleep": {"POST": self._sleep},
            "/wake_up": {"POST": self._wake_up},
            "/is_sleeping": {"GET": self._is_sleeping},
            "/collective_rpc": {"POST": self._collective_rpc},
            "/reset_prefix_cache": {"POST": self._reset_prefix_cache},
        }

    async def _sleep(self, exchange: Exchange) -> None:
        if self._fails == "sleep":
            raise EngineFailure
        (level,) = parse_qs(exchange.query.decode()).get("level", ["1"])
        engine = self._engine
        engine.fall_asleep(int(level), TAGS)
        await asyncio.sleep(self._seconds)
        startup.log(f"It took {self._seconds:.6f} seconds to fall asleep.", "abstract.py:306", "EngineCore")
        await exchange.answer(200, b"", "")

    async def _wake_up(self, exchange: Exchange) -> None:
        if self._fails == "wake":
            raise EngineFailure
        tags = parse_qs(exchange.query.decode()).get("tags", TAGS)
        await asyncio.sleep(self._seconds)
        self._engine.wake(tags)
        text = f"It took {self._seconds:.6f} seconds to wake up tags {list(tags)}."
        startup.log(text, "abstract.py:324", "EngineCore")
        await exchange.answer(200, b"", "")

    async def _is_sleeping(self, exchange: Exchange) -> None:
        await exchange.answer(200, wire.to_json({"is_sleeping": bool(self._engine.asleep)}))

    async def _collective_rpc(self, exchange: Exchange) -> None:
        """Of its many methods the one that sleep needs; others are answered as if they had been done."""
        if parse_json(await exchange.body()).get("method") == "reload_weights":
            startup.log("Reloading weights inplace...", "gpu_model_runner.py:3436", "EngineCore")
            if "weights" in self._engine.asleep:
                raise EngineFailure  # there is no memory to load them into
            self._engine.weights_lost = False
        await exchange.answer(200, wire.to_json({"results": [None]}))

    async def _reset_prefix_cache(self, exchange: Exchange) -> None:
        await exchange.answer(200, b"", "")
