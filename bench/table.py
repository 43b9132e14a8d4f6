"""From single measurements to the table: one cell for each load and gateway, medians over the rounds."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.compare import MODES, Load, Round
from bench.measuring import Measurement

DIRECT = "direct"
# JSON of load.c, by the name of the percentile that tells what a gateway adds
ADDED_TO_ANSWERS, ADDED_TO_STREAMS, FIRST_BYTE = "latency_us", "chunk_delay_us", "first_byte_us"


@dataclass
class Cell:
    """None where there is nothing to tell. The CPU times are the gateway's own (of the portal the web process's), with
    Redis beside it where there is one. `added`: minus the direct one's of the same round."""

    mode: str
    connections: int
    gateway: str
    cpu_us_per_request: float | None
    redis_us_per_request: float | None
    cpu_us_per_chunk: float | None
    added_p50_us: float | None
    added_p99_us: float | None
    first_byte_p50_us: float | None
    first_byte_p99_us: float | None
    requests_per_second: float | None
    chunks_per_second: float | None


def sound(round_: Round, gateway: str) -> Measurement | None:
    """What was measured of the gateway in the round, unless it means nothing."""
    measured = round_.by_gateway.get(gateway)
    return None if measured is None or measured.problems else measured


def cpu_per_request(round_: Round, gateway: str, *parts: int) -> float | None:
    """µs of the gateway's parts, by number: 0 is the gateway itself, 1 what serves it."""
    measured = sound(round_, gateway)
    if measured is None or len(measured.cpu_us) <= max(parts):
        return None
    return _per(sum(list(measured.cpu_us.values())[part] for part in parts), measured.load["requests"])


def cpu_per_chunk(round_: Round, gateway: str) -> float | None:
    measured = sound(round_, gateway)
    if measured is None or not measured.cpu_us:
        return None
    return _per(next(iter(measured.cpu_us.values())), measured.load["chunks"])


def added(round_: Round, gateway: str, percentile: str, what: str | None = None) -> float | None:
    """µs; None when one of the two has no sample (a stream can be longer than the window)."""
    through, direct = sound(round_, gateway), sound(round_, DIRECT)
    if through is None or direct is None or gateway == DIRECT:
        return None
    what = what or (ADDED_TO_STREAMS if round_.load[0].stream else ADDED_TO_ANSWERS)
    one, other = through.load[what][percentile], direct.load[what][percentile]
    return None if one is None or other is None else one - other


def middle(rounds: list[Round], value: Callable[[Round], float | None]) -> float | None:
    """The median of a value over the rounds that have it."""
    values = [each for each in map(value, rounds) if each is not None]
    return round(median(values), 2) if values else None


def of_load(rounds: list[Round], load: Load) -> list[Round]:
    return [each for each in rounds if each.load == load]


def cells(rounds: list[Round], gateways: list[str]) -> list[Cell]:
    """In the order of modes, connections and gateways; without those that were not up to a load."""
    loads = sorted({each.load for each in rounds}, key=lambda load: (MODES.index(load[0]), load[1]))
    return [
        _cell(of_load(rounds, load), load, gateway)
        for load in loads
        for gateway in gateways
        if any(gateway in each.by_gateway for each in of_load(rounds, load))
    ]


def _cell(rounds: list[Round], load: Load, gateway: str) -> Cell:
    mode, connections = load

    def rate(round_: Round, count: str) -> float | None:
        measured = sound(round_, gateway)
        return None if measured is None else measured.load[count] / measured.seconds

    return Cell(
        mode=mode.name,
        connections=connections,
        gateway=gateway,
        cpu_us_per_request=middle(rounds, lambda r: cpu_per_request(r, gateway, 0)),
        redis_us_per_request=middle(rounds, lambda r: cpu_per_request(r, gateway, 1)),
        cpu_us_per_chunk=middle(rounds, lambda r: cpu_per_chunk(r, gateway)) if mode.stream else None,
        added_p50_us=middle(rounds, lambda r: added(r, gateway, "p50")),
        added_p99_us=middle(rounds, lambda r: added(r, gateway, "p99")),
        first_byte_p50_us=middle(rounds, lambda r: added(r, gateway, "p50", FIRST_BYTE)) if mode.stream else None,
        first_byte_p99_us=middle(rounds, lambda r: added(r, gateway, "p99", FIRST_BYTE)) if mode.stream else None,
        requests_per_second=middle(rounds, lambda r: rate(r, "requests_in_window")),
        chunks_per_second=middle(rounds, lambda r: rate(r, "chunks_in_window")) if mode.stream else None,
    )


def _per(total: float, count: int) -> float | None:
    return total / count if count else None


# The table as text, for the console and for the report

COLUMNS = (
    ("CPU µs/req", "cpu_us_per_request", 1),
    ("redis µs/req", "redis_us_per_request", 1),
    ("CPU µs/chunk", "cpu_us_per_chunk", 1),
    ("added p50", "added_p50_us", 0),
    ("added p99", "added_p99_us", 0),
    ("1st byte p50", "first_byte_p50_us", 0),
    ("1st byte p99", "first_byte_p99_us", 0),
    ("req/s", "requests_per_second", 0),
    ("chunks/s", "chunks_per_second", 0),
)


def texts(cell: Cell) -> list[str]:
    """The cell's figures as the columns show them."""
    values = [(getattr(cell, attribute), digits) for _, attribute, digits in COLUMNS]
    return ["-" if value is None else f"{value:,.{digits}f}" for value, digits in values]


def lines(table: list[Cell]) -> list[str]:
    text = ["CPU: of the gateway (portal: its web process); added: minus direct, in µs; medians over the rounds"]
    text.append(f"{'':33}" + "".join(f"{title:>14}" for title, _, _ in COLUMNS))
    for cell in table:
        place = f"{cell.mode:17} {cell.connections:3} {cell.gateway:11}"
        text.append(place + "".join(f"{figure:>14}" for figure in texts(cell)))
    return text
