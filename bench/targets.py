"""What the portal has to reach beside its peers, and whether it does."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench import table
from bench.compare import ANSWERS, PACED, Load, Round

PORTAL, NGINX, ROUTER, LITELLM = "portal", "nginx", "vllm-router", "LiteLLM"
STREAMS = 1000
LEAST_PEER_US = 1.0  # a latency that a peer does not add, or less than the clock's noise, counts as this

Value = Callable[[Round, str], float | None]


@dataclass
class Target:
    """`measured` is a ratio, portal to peer, unless there is a `unit`; None: not measured. Smaller is better: at most
    `least` has to be reached, `wanted` is the aim."""

    what: str
    least: float
    wanted: float
    measured: float | None
    portal: float | None = None
    peer: float | None = None
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.measured is not None and self.measured <= self.least

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "NOT MEASURED"
        return "met, as wanted" if self.measured <= self.wanted else "met" if self.met else "MISSED"


def own_cpu(round_: Round, gateway: str) -> float | None:
    return table.cpu_per_request(round_, gateway, 0)


def whole_cpu(round_: Round, gateway: str) -> float | None:
    """With Redis, for the portal; a peer is one part."""
    return table.cpu_per_request(round_, gateway, *((0, 1) if gateway == PORTAL else (0,)))


def added(percentile: str) -> Value:
    return lambda round_, gateway: table.added(round_, gateway, percentile)


# what, load, peer, value, at least, wanted
_COMPARED: tuple[tuple[str, Load, str, Value, float, float], ...] = (
    ("CPU per request, 64 at once, web process", (ANSWERS, 64), ROUTER, own_cpu, 1.0, 0.6),
    ("CPU per request, 64 at once, web process and Redis", (ANSWERS, 64), ROUTER, whole_cpu, 1.2, 0.8),
    ("CPU per request, 64 at once, web process", (ANSWERS, 64), NGINX, own_cpu, 3.0, 1.7),
    ("CPU per request, 64 at once, web process", (ANSWERS, 64), LITELLM, own_cpu, 1 / 200, 1 / 400),
    ("CPU per chunk, 256 streams, 20 ms, web process", (PACED, 256), NGINX, table.cpu_per_chunk, 1.6, 1.15),
    ("added p50 of an answer, 1 at once", (ANSWERS, 1), ROUTER, added("p50"), 1.2, 0.8),
    ("added p99 of an answer, 1 at once", (ANSWERS, 1), ROUTER, added("p99"), 2.0, 1.0),
    ("added p99 of an answer, 64 at once", (ANSWERS, 64), ROUTER, added("p99"), 2.0, 1.0),
)


def compared(rounds: list[Round]) -> list[Target]:
    return [
        _ratio(f"{what}, to {peer}", table.of_load(rounds, load), peer, value, least, wanted)
        for what, load, peer, value, least, wanted in _COMPARED
    ]


def memory(peak_mb: float) -> Target:
    return Target(f"memory of the web process, {STREAMS:,} streams at once", 200, 120, peak_mb, unit="MB")


def pages(ratio: float | None) -> Target:
    return Target("p99 of a chunk's delay, 64 streams, while pages are loaded, to without", 2.0, 1.2, ratio)


def _ratio(what: str, rounds: list[Round], peer: str, value: Value, least: float, wanted: float) -> Target:
    """The median of the rounds' ratios: both sides of each are of the same minute."""
    pairs = [(value(each, PORTAL), value(each, peer)) for each in rounds]
    whole = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    ratios = [max(ours, 0) / max(theirs, LEAST_PEER_US) for ours, theirs in whole]
    return Target(
        what,
        least,
        wanted,
        measured=round(median(ratios), 5) if ratios else None,
        portal=table.middle(rounds, lambda each: value(each, PORTAL)),
        peer=table.middle(rounds, lambda each: value(each, peer)),
    )


def figure(value: float | None, unit: str = "") -> str:
    """A ratio, a small one as a fraction; or a quantity."""
    if value is None:
        return "-"
    if unit:
        return f"{value:.0f} {unit}"
    return f"1/{1 / value:.0f}" if 0 < value < 0.1 else f"{value:.2f}x"


def lines(targets: list[Target]) -> list[str]:
    return [
        f"{target.verdict:14}  {target.what}: {figure(target.measured, target.unit)} "
        f"(at most {figure(target.least, target.unit)}, wanted {figure(target.wanted, target.unit)})"
        for target in targets
    ]
