"""Many streams at once through the portal: each answer as it would be without it, and what that takes."""

from dataclasses import asdict, dataclass

from bench.gateway import Gateway
from bench.measuring import Bench, Measurement
from bench.programs import Mode

DELAY_MS = 50  # 20 tokens a second
FILES_PER_STREAM, OTHER_FILES = 2, 1000  # the web process has a connection to either side


@dataclass
class Streams:
    """`share_of_core`: 1.0 is a whole one. Delays are of a chunk, from the upstream's write to the client's read."""

    at_once: int
    tokens_each: int
    identical: bool
    share_of_core: float | None
    web_us_per_chunk: float | None
    web_rss_mb: float
    chunks_per_second: float
    delay_p50_us: float | None
    delay_p99_us: float | None
    direct_delay_p50_us: float | None
    direct_delay_p99_us: float | None


def files_for(streams: int) -> int:
    return FILES_PER_STREAM * streams + OTHER_FILES


def measure(
    bench: Bench, direct: Gateway, portal: Gateway, at_once: int, tokens: int, seconds: float
) -> tuple[Streams, list[str]]:
    """(what was seen, problems). Raises OSError or SubprocessError where a process is gone."""
    mode = Mode(f"streams, {DELAY_MS} ms", stream=True, max_tokens=tokens, delay_ms=DELAY_MS)
    alone = bench.measure(direct, mode, at_once, seconds, compare=True)
    through = bench.measure_warm(portal, mode, at_once, seconds, compare=True, at_most=1)
    problems = alone.problems + through.problems
    seen = summary(alone, through)
    if not seen.identical:
        problems.append(f"{at_once} streams: the bodies through the portal are not those of the upstream")
    return seen, problems


def summary(alone: Measurement, through: Measurement) -> Streams:
    chunks, delays, direct_delays = through.load["chunks"], through.load["chunk_delay_us"], alone.load["chunk_delay_us"]
    return Streams(
        at_once=through.connections,
        tokens_each=through.mode.max_tokens,
        identical=alone.load["bodies"] == through.load["bodies"],
        share_of_core=through.cpu_share,
        web_us_per_chunk=through.cpu_us["web"] / chunks if chunks else None,
        web_rss_mb=through.peak_rss_mb,
        chunks_per_second=through.load["chunks_in_window"] / through.seconds,
        delay_p50_us=delays["p50"],
        delay_p99_us=delays["p99"],
        direct_delay_p50_us=direct_delays["p50"],
        direct_delay_p99_us=direct_delays["p99"],
    )


def lines(seen: Streams) -> list[str]:
    return [f"{seen.at_once} streams at once"] + [f"  {name}: {value}" for name, value in asdict(seen).items()]
