"""`python -m bench`: what the portal costs beside its peers and the bare engine. README.md says how to read it."""

import argparse
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

from bench import machine, report, results, targets
from bench.programs import BUILD_DIR, HERE, compiled
from bench.scenarios import Plan, Stand

PARTS = ("compare", "streams", "pages")


def run(plan: Plan, strict: bool, to_docs: bool) -> int:
    described = machine.describe(HERE.parent)
    portal_core, load_core = machine.two_cores()
    described["pinned"] = f"gateways to core {portal_core}, load and upstream to core {load_core}"
    print(*(f"{key}: {value}" for key, value in described.items()), sep="\n", flush=True)
    for program in ("upstream", "load"):
        compiled(program)
    with ExitStack() as at_the_end:
        stand = Stand(plan, at_the_end, portal_core, load_core, _say)
        seen = stand.run()
    _say("")

    content = results.content(described, plan, seen)
    results.write(BUILD_DIR / ("latest.json" if to_docs else "partial.json"), content)
    print(*results.lines(seen), sep="\n")
    for peer, why in seen.missing.items():
        print(f"MISSING PEER: {peer}; what is compared with it is not measured. {why}", file=sys.stderr)
    if seen.peer_problems:
        print("not counted, as a peer went wrong:", *seen.peer_problems, sep="\n  ", file=sys.stderr)
    if seen.problems:
        print("INVALID: these figures mean nothing", *seen.problems, sep="\n  ", file=sys.stderr)
        return 1
    print("valid: no error, and client, ledger and upstream counted the same requests and tokens after every load")
    if to_docs:
        report.write(content)
    return 3 if strict and not all(target.met for target in seen.targets) else 0


def _say(progress: str) -> None:
    """Progress for a person who waits; not part of the output."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    what = "one part of it (the report stays as it is), or report: write it anew from the last whole run"
    parser.add_argument("what", nargs="?", choices=[*PARTS, "report"], help=what)
    parser.add_argument("--seconds", type=float, default=0.8, help="measured time of each load (default 0.8)")
    parser.add_argument("--rounds", type=int, default=3, help="the table shows medians over them (default 3)")
    parser.add_argument(
        "--streams", type=int, default=targets.STREAMS, help=f"how many streams at once (default {targets.STREAMS})"
    )
    parser.add_argument("--quick", action="store_true", help="a little of everything, without peers and report")
    parser.add_argument("--strict", action="store_true", help="exit with 3 when a target is missed or not measured")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds <= 0 or arguments.streams < 1:
        parser.error("--rounds, --seconds and --streams must be positive")
    return arguments


def main() -> int:
    arguments = _arguments()
    if arguments.what == "report":
        report.write(results.read(BUILD_DIR / "latest.json"))
        return 0
    parts = (arguments.what,) if arguments.what else PARTS
    given: dict[str, Any] = {"parts": parts, "seconds": arguments.seconds}
    plan = Plan.quick(**given) if arguments.quick else Plan(**given, rounds=arguments.rounds, streams=arguments.streams)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    try:
        return run(plan, arguments.strict, to_docs=parts == PARTS and not arguments.quick)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"the benchmark could not start: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
