"""One load through one gateway, and whether all who counted it counted the same."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bench import machine
from bench.gateway import Gateway
from bench.programs import PROMPT_TOKENS, Mode, Upstream, Usage, run_load, warmup_of

LEDGER_DEADLINE_SECONDS = 30.0  # a busy machine writes it late; what is not there by then is lost
WARM_CONNECTIONS = 16
WARM_UP = Mode("warm-up", stream=False, max_tokens=64, delay_ms=0)
ATTEMPTS = 3
FIRST_REQUESTS = 100


@dataclass
class Measurement:
    """`load` is what load.c printed. The CPU times, in µs by the gateway's parts, cover all requests, warm-up included:
    they are read once the ledger holds the last one. `looked_up`: keys that were looked up meanwhile, as far as the
    gateway tells. Where there are `problems` the figures mean nothing."""

    gateway: str
    mode: Mode
    connections: int
    seconds: float
    load: dict[str, Any]
    cpu_us: dict[str, float]
    problems: list[str]
    looked_up: int = 0
    cpu_share: float | None = None
    peak_rss_mb: float = 0.0


class Bench:
    """Sends loads, of which no two may run at once, to gateways before one upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    def awaken(self, gateway: Gateway) -> list[str]:
        """The first requests of each kind, which pay for what a gateway does once. Returns problems."""
        modes = [Mode("first answers", False, max_tokens=8, delay_ms=0), Mode("first streams", True, 8, delay_ms=0)]
        return [
            problem
            for mode in modes
            for problem in self.measure(gateway, mode, WARM_CONNECTIONS, 60, requests=FIRST_REQUESTS).problems
        ]

    def measure_warm(
        self,
        gateway: Gateway,
        mode: Mode,
        connections: int,
        seconds: float,
        compare: bool = False,
        at_most: int = ATTEMPTS,
    ) -> Measurement:
        """`measure`, once each key was seen, so that a gateway which remembers keys has looked them up.

        Again, where keys were looked up in the middle all the same, since what is remembered runs out: the figures
        would be of looking up. Of the attempts the one that had least of it counts.
        """
        attempts = []
        for _ in range(at_most):
            problems = self.measure(gateway, WARM_UP, WARM_CONNECTIONS, 60, requests=gateway.key_count).problems
            measured = self.measure(gateway, mode, connections, seconds, compare=compare)
            measured.problems[:0] = problems
            attempts.append(measured)
            if problems or not measured.looked_up:
                break
        return min(attempts, key=lambda attempt: (not attempt.problems, attempt.looked_up))

    def measure(
        self,
        gateway: Gateway,
        mode: Mode,
        connections: int,
        seconds: float,
        requests: int | None = None,
        compare: bool = False,
    ) -> Measurement:
        """Raises OSError or SubprocessError where a process is gone."""
        upstream_before = self.upstream.usage_totals()
        ledger_before = gateway.ledger() if gateway.ledger else None
        cpu_before = gateway.cpu_us()
        begun, began_at = time.monotonic(), datetime.now(UTC)
        first_part = next(iter(gateway.processes.values()), list)
        with machine.Watch(first_part()) as watch:
            load = run_load(
                gateway.port, gateway.keys, self.upstream.model, mode, connections, seconds, requests, compare
            )
        upstream = self.upstream.usage_totals().since(upstream_before)
        counted = {"upstream": upstream}
        if gateway.ledger and ledger_before:
            counted["ledger"] = _settled(gateway, ledger_before, upstream)
        cpu_us = {part: us - cpu_before[part] for part, us in gateway.cpu_us().items()}
        where = f"{mode.name}, {connections} at once, {gateway.name}"
        problems = [f"{where}: {problem}" for problem in _problems(mode, load, counted)]
        window = begun + warmup_of(mode)
        share = watch.cpu_share(window, window + seconds) if gateway.processes else None
        looked_up = gateway.looked_up_since(began_at) if gateway.looked_up_since else 0
        return Measurement(
            gateway.name, mode, connections, seconds, load, cpu_us, problems, looked_up, share, watch.peak_rss_mb
        )


def _settled(gateway: Gateway, before: Usage, expected: Usage) -> Usage:
    """The ledger may lag behind, as records are written in batches; it must catch up before the deadline."""
    assert gateway.ledger is not None
    deadline = time.monotonic() + LEDGER_DEADLINE_SECONDS
    while (ledger := gateway.ledger().since(before)) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return ledger


def _problems(mode: Mode, load: dict[str, Any], counted: dict[str, Usage]) -> list[str]:
    problems = []
    if load["errors"]["total"]:
        kinds = {kind: n for kind, n in load["errors"].items() if n and kind != "total"}
        problems.append(f"errors {kinds}, the first: {load['first_error']}")
    answered = load["requests"]
    generated = load["chunks"] if mode.stream else answered * mode.max_tokens
    received = Usage(answered, answered * PROMPT_TOKENS, generated)
    if not answered:
        problems.append("no request was answered")
    for who, usage in counted.items():
        if usage != received:
            problems.append(f"the client received {received}, the {who} counted {usage}")
    return problems
