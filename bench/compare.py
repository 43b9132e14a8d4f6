"""The portal beside its peers: every load through every gateway, in shuffled rounds."""

import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.gateway import Gateway
from bench.measuring import Bench, Measurement
from bench.peers import KINDS as PEERS
from bench.programs import Mode

ANSWERS = Mode("answers", stream=False, max_tokens=64, delay_ms=0)
STREAMS = Mode("streams, unpaced", stream=True, max_tokens=64, delay_ms=0)
PACED = Mode("streams, 20 ms", stream=True, max_tokens=64, delay_ms=20)
MODES = (ANSWERS, STREAMS, PACED)

Load = tuple[Mode, int]
"""What is sent, and how much of it at once."""

FULL: tuple[Load, ...] = (
    *((ANSWERS, connections) for connections in (1, 16, 64, 256)),
    *((STREAMS, connections) for connections in (1, 64)),
    *((PACED, connections) for connections in (64, 256)),
)
QUICK: tuple[Load, ...] = ((ANSWERS, 1), (ANSWERS, 64), (STREAMS, 64), (PACED, 64))

# LiteLLM needs 10 ms for an answer and most of 1 ms for a chunk: more would be a queue, and no measurement.
COPES_WITH: dict[str, tuple[Load, ...]] = {"LiteLLM": ((ANSWERS, 1), (ANSWERS, 16), (ANSWERS, 64), (STREAMS, 1))}


@dataclass
class Round:
    """One load through each gateway that was up to it; of the same minute, so that they may be compared."""

    load: Load
    by_gateway: dict[str, Measurement]


def compare(
    bench: Bench,
    gateways: list[Gateway],
    loads: tuple[Load, ...],
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> Iterator[Round]:
    """Raises OSError or SubprocessError where a process of the portal is gone."""
    for number in range(rounds):
        for load in random.sample(loads, len(loads)):
            this = Round(load, {})
            for gateway in random.sample(gateways, len(gateways)):
                if load not in COPES_WITH.get(gateway.name, loads):
                    continue
                say(f"round {number + 1} of {rounds}: {load[0].name}, {load[1]} at once, {gateway.name}")
                this.by_gateway[gateway.name] = _measured(bench, gateway, load, seconds)
            yield this


def _measured(bench: Bench, gateway: Gateway, load: Load, seconds: float) -> Measurement:
    mode, connections = load
    try:
        return bench.measure_warm(gateway, mode, connections, seconds)
    except (OSError, subprocess.SubprocessError) as error:
        if gateway.name not in PEERS:
            raise
        problem = f"{mode.name}, {connections} at once, {gateway.name}: broken off: {error}"
        return Measurement(gateway.name, mode, connections, seconds, {}, {}, [problem])
