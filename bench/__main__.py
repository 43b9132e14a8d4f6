"""`python -m bench`: what the portal costs beside the bare engine. README.md says how to read it."""

import argparse
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

from bench import machine, report
from bench.portal import Portal, Running
from bench.programs import BUILD_DIR, HERE, PROMPT_TOKENS, Mode, Upstream, Usage, compiled, run_load

ANSWERS = Mode("answers", stream=False, max_tokens=64, delay_ms=0)
STREAMS = Mode("streams, unpaced", stream=True, max_tokens=64, delay_ms=0)
PACED = Mode("streams, 20 ms", stream=True, max_tokens=64, delay_ms=20)
AT_ONCE = (1, 16, 64, 256)
MODEL = "bench"
WARMUP_SECONDS = 0.3
LEDGER_DEADLINE_SECONDS = 5.0


class Bench:
    """One portal and one upstream, measured alternately. `problems` is empty as long as the figures are valid."""

    def __init__(self, upstream: Upstream, portal: Portal, running: Running, seconds: float) -> None:
        self.upstream = upstream
        self.portal = portal
        self.running = running
        self.seconds = seconds
        self.problems: list[str] = []
        self.peak_rss_mb = 0.0

    def measure_all(self, rounds: int, at_once: tuple[int, ...]) -> list[report.Pair]:
        """Each round has every mode and number of connections once. Breaks off when a process is gone."""
        pairs = []
        plan = [(mode, connections) for mode in (ANSWERS, STREAMS, PACED) for connections in at_once]
        try:
            for number in range(rounds):
                random.shuffle(plan)
                for mode, connections in plan:
                    _say(f"round {number + 1} of {rounds}: {mode.name}, {connections} at once")
                    pairs.append(self.measure(mode, connections))
        except (OSError, subprocess.SubprocessError) as error:
            self.problems.append(f"broken off: {error}")
        _say("")
        return pairs

    def measure(self, mode: Mode, connections: int) -> report.Pair:
        """Both sides of one line of the table, in random order."""
        pair = report.Pair(mode, connections, {}, {}, 0, 0, self.seconds)
        sides = [self._direct, self._through_portal]
        random.shuffle(sides)
        for side in sides:
            side(pair)
        return pair

    def _direct(self, pair: report.Pair) -> None:
        before = self.upstream.usage_totals()
        pair.direct = self._load(pair, self.upstream.port, "none", MODEL)
        self._check(pair, "direct", pair.direct, upstream=self.upstream.usage_totals().since(before))

    def _through_portal(self, pair: report.Pair) -> None:
        upstream_before, ledger_before = self.upstream.usage_totals(), self.portal.usage_totals()
        web_before, redis_before = self._cpu_us()
        pair.portal = self._load(pair, self.running.port, self.running.token, self.running.model)
        upstream = self.upstream.usage_totals().since(upstream_before)
        ledger = self._settled_ledger(ledger_before, upstream)
        self._check(pair, "portal", pair.portal, upstream=upstream, ledger=ledger)
        web, redis = self._cpu_us()  # now that all accounting of this load is done
        pair.web_cpu_us, pair.redis_cpu_us = web - web_before, redis - redis_before
        self.peak_rss_mb = max(self.peak_rss_mb, machine.rss_mb(self._web_pids()))

    def _load(self, pair: report.Pair, port: int, key: str, model: str) -> dict[str, Any]:
        return run_load(port, key, model, pair.mode, pair.connections, self.seconds, WARMUP_SECONDS)

    def _settled_ledger(self, before: Usage, expected: Usage) -> Usage:
        """The ledger may lag behind, as records are written in batches; it must catch up before the deadline."""
        deadline = time.monotonic() + LEDGER_DEADLINE_SECONDS
        while (ledger := self.portal.usage_totals().since(before)) != expected and time.monotonic() < deadline:
            time.sleep(0.02)
        return ledger

    def _check(self, pair: report.Pair, side: str, result: dict[str, Any], **counted: Usage) -> None:
        """No error, and everyone who counts has counted the same."""
        where = f"{pair.mode.name}, {pair.connections} at once, {side}"
        if result["errors"]["total"]:
            kinds = {kind: n for kind, n in result["errors"].items() if n and kind != "total"}
            self.problems.append(f"{where}: errors {kinds}, the first: {result['first_error']}")
        answered = result["requests"]
        generated = result["chunks"] if pair.mode.stream else answered * pair.mode.max_tokens
        received = Usage(answered, answered * PROMPT_TOKENS, generated)
        if not answered:
            self.problems.append(f"{where}: no request was answered")
        for who, usage in counted.items():
            if usage != received:
                self.problems.append(f"{where}: the client received {received}, the {who} counted {usage}")

    def _web_pids(self) -> list[int]:
        return machine.process_tree(self.running.web_pid, without=self.running.redis_pid)

    def _cpu_us(self) -> tuple[float, float]:
        return machine.cpu_ns(self._web_pids()) / 1000, machine.cpu_ns([self.running.redis_pid]) / 1000


def run(arguments: argparse.Namespace) -> int:
    described = machine.describe(HERE.parent)
    portal_core, load_core = machine.two_cores()
    described["pinned"] = f"portal to core {portal_core}, load and upstream to core {load_core}"
    print(*(f"{key}: {value}" for key, value in described.items()), sep="\n", flush=True)
    for program in ("upstream", "load"):
        compiled(program)

    upstream = Upstream(MODEL)
    portal = Portal(upstream.port, MODEL)
    with ExitStack() as at_the_end:
        at_the_end.callback(upstream.stop)
        at_the_end.callback(portal.stop)
        with machine.pinned(load_core):
            upstream.start()
            with machine.pinned(portal_core):
                running = portal.start()
            bench = Bench(upstream, portal, running, arguments.seconds)
            pairs = bench.measure_all(arguments.rounds, arguments.at_once)

    table = report.cells(pairs)
    goals = report.targets(table, ANSWERS, PACED, bench.peak_rss_mb)
    report.print_table(table)
    report.print_targets(goals)
    report.write_json(BUILD_DIR / "latest.json", described, bench.problems, table, goals, pairs)
    if bench.problems:
        print("INVALID: these figures mean nothing", *bench.problems, sep="\n  ", file=sys.stderr)
        return 1
    print("valid: no error, and client, ledger and upstream counted the same requests and tokens after every load")
    return 3 if arguments.strict and not all(goal.met for goal in goals) else 0


def _say(progress: str) -> None:
    """Progress for a person who waits; not part of the output."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.8, help="measured time of each load (default 0.8)")
    parser.add_argument("--rounds", type=int, default=2, help="the table shows medians over them (default 2)")
    parser.add_argument("--quick", action="store_true", help="one round, 1 and 64 at once: 20 seconds")
    parser.add_argument("--strict", action="store_true", help="exit with 3 when a target is missed")
    arguments = parser.parse_args()
    arguments.at_once = (1, 64) if arguments.quick else AT_ONCE
    arguments.rounds = 1 if arguments.quick else arguments.rounds
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    try:
        return run(arguments)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"the benchmark could not start: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
