"""One engine from its first log line to its exit code: bind, load, listen, drain or abort.

Like vLLM it binds its port first and listens only when it has loaded, so a port that is taken shows at once, and a
client is refused, not kept waiting, while the engine loads. SIGTERM and SIGINT end it with code 0 in every phase.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from engines.simulator import startup
from engines.simulator.counters import Counters
from engines.simulator.engine import Engine
from engines.simulator.failures import StartFailure
from engines.simulator.options import Options
from engines.simulator.routes import Application

_GRACE_S = 3


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: those end the process by the signal, vLLM's end with code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(options: Options) -> int:
    """Returns the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    startup.announce(options)
    with contextlib.closing(socket.socket()) as listener:
        try:
            _bind(listener, options)
        except (OSError, OverflowError) as error:
            startup.raw(f"{type(error).__name__}: cannot listen on {options.host}:{options.port}: {error}")
            return 1
        try:
            if not await _load(options, stop):
                return 0
        except StartFailure as failure:
            if failure.core:
                startup.log(failure.core, "core.py:946", "EngineCore", "ERROR")
            if failure.plain:
                startup.raw(failure.plain)
            return failure.exit_code
        await _serve(options, listener, stop)
    return 0


def _bind(listener: socket.socket, options: Options) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options.host, options.port))
    listener.setblocking(False)


async def _load(options: Options, stop: asyncio.Event) -> bool:
    """False: told to stop before it was done."""
    loading = asyncio.ensure_future(startup.load(options))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if loading.done():
        loading.result()
        return True
    loading.cancel()
    startup.log("[shutdown] API server: shutdown triggered", "launcher.py:254")
    return False


async def _serve(options: Options, listener: socket.socket, stop: asyncio.Event) -> None:
    host, port = listener.getsockname()[:2]
    startup.log(f"Starting vLLM server on http://{host}:{port}", "entry.py:140")
    counters = Counters(options.names[0], options.max_model_len, startup.KV_CACHE_TOKENS, options.prefix_caching)
    engine = Engine(counters, options.max_num_seqs, options.unhealthy_after)
    config = uvicorn.Config(
        Application(options, engine),
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=options.access_log,
        log_config=_log_config(),
        backlog=2048,
        timeout_graceful_shutdown=_GRACE_S,
    )
    logging.getLogger("uvicorn.access").addFilter(_not_for(options.silent_paths))
    server = _Server(config)
    stopping = asyncio.ensure_future(_stop_when_told(server, engine, options.shutdown_timeout, stop))
    await server.serve(sockets=[listener])
    stopping.cancel()


async def _stop_when_told(server: uvicorn.Server, engine: Engine, drain_s: int, stop: asyncio.Event) -> None:
    """With a time to drain the engine goes on, and takes new requests, until it is idle or the time is over."""
    await stop.wait()
    mode = "drain" if drain_s else "abort"
    startup.log("[shutdown] API server: shutdown triggered", "launcher.py:254")
    startup.log(f"[shutdown] API server: stopping engine client mode={mode} timeout={drain_s}s", "launcher.py:270")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await engine.idle.wait()
    engine.abort_all()
    startup.log("[shutdown] API server: shutting down FastAPI HTTP server", "launcher.py:304")
    server.should_exit = True


def _log_config() -> dict[str, Any]:
    """uvicorn's, with the access log on stderr too: this program has one log."""
    config = {**uvicorn.config.LOGGING_CONFIG}
    config["handlers"] = {
        **config["handlers"],
        "access": {**config["handlers"]["access"], "stream": "ext://sys.stderr"},
    }
    return config


def _not_for(paths: tuple[str, ...]) -> Any:
    def wanted(record: logging.LogRecord) -> bool:
        return not isinstance(record.args, tuple) or str(record.args[2]).partition("?")[0] not in paths

    return wanted
