"""From the single measurements to the table, the targets and the JSON file."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.programs import Mode

# JSON of load.c, by the name of the percentile that tells what a gateway adds
ADDED_TO_ANSWERS, ADDED_TO_STREAMS, FIRST_BYTE = "latency_us", "chunk_delay_us", "first_byte_us"


@dataclass
class Pair:
    """Direct and through the portal, in the same round. The CPU times cover all requests, warm-up included."""

    mode: Mode
    connections: int
    direct: dict[str, Any]
    portal: dict[str, Any]
    web_cpu_us: float
    redis_cpu_us: float
    seconds: float

    def added(self, what: str, percentile: str) -> float | None:
        """µs; None when one of the two has no sample (a stream can be longer than the window)."""
        through, direct = self.portal[what][percentile], self.direct[what][percentile]
        return None if through is None or direct is None else through - direct


@dataclass
class Cell:
    """One line of the table: medians over the rounds, None where there is nothing to tell."""

    mode: str
    connections: int
    web_us_per_request: float | None
    redis_us_per_request: float | None
    web_us_per_chunk: float | None
    added_p50_us: float | None
    added_p99_us: float | None
    first_byte_p50_us: float | None
    first_byte_p99_us: float | None
    requests_per_second: float | None
    chunks_per_second: float | None


class Target(NamedTuple):
    what: str
    limit: float
    measured: float | None

    @property
    def met(self) -> bool:
        return self.measured is not None and self.measured <= self.limit


def cells(pairs: list[Pair]) -> list[Cell]:
    groups: dict[tuple[Mode, int], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.mode, pair.connections), []).append(pair)
    in_order = sorted(groups, key=lambda group: (group[0].stream, group[0].delay_ms, group[1]))
    return [_cell(mode, connections, groups[mode, connections]) for mode, connections in in_order]


def _cell(mode: Mode, connections: int, pairs: list[Pair]) -> Cell:
    def middle(value: Callable[[Pair], float | None]) -> float | None:
        values = [each for each in map(value, pairs) if each is not None]
        return round(median(values), 2) if values else None

    added = ADDED_TO_STREAMS if mode.stream else ADDED_TO_ANSWERS
    return Cell(
        mode=mode.name,
        connections=connections,
        web_us_per_request=middle(lambda p: _ratio(p.web_cpu_us, p.portal["requests"])),
        redis_us_per_request=middle(lambda p: _ratio(p.redis_cpu_us, p.portal["requests"])),
        web_us_per_chunk=middle(lambda p: _ratio(p.web_cpu_us, p.portal["chunks"])),
        added_p50_us=middle(lambda p: p.added(added, "p50")),
        added_p99_us=middle(lambda p: p.added(added, "p99")),
        first_byte_p50_us=middle(lambda p: p.added(FIRST_BYTE, "p50")) if mode.stream else None,
        first_byte_p99_us=middle(lambda p: p.added(FIRST_BYTE, "p99")) if mode.stream else None,
        requests_per_second=middle(lambda p: p.portal["requests_in_window"] / p.seconds),
        chunks_per_second=middle(lambda p: p.portal["chunks_in_window"] / p.seconds) if mode.stream else None,
    )


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None


def targets(table: list[Cell], answers: Mode, paced: Mode, web_rss_mb: float) -> list[Target]:
    """Requests at 64 at once; chunks at 256 (or the most that were measured), since with few streams a chunk's share of
    what an idle process does is no small part of it."""
    by_place = {(cell.mode, cell.connections): cell for cell in table}
    most = max((cell.connections for cell in table), default=0)
    request = getattr(by_place.get((answers.name, 64)), "web_us_per_request", None)  # none where a run broke off
    chunk = getattr(by_place.get((paced.name, most)), "web_us_per_chunk", None)
    return [
        Target(f"CPU µs/request, {answers.name}, 64 at once", 150, request),
        Target(f"CPU µs/chunk, {paced.name}, {most} at once", 45, chunk),
        Target("MB of the web process", 150, round(web_rss_mb, 1)),
    ]


COLUMNS = (
    ("at once", "connections", 0),
    ("CPU µs/req", "web_us_per_request", 1),
    ("redis µs/req", "redis_us_per_request", 1),
    ("CPU µs/chunk", "web_us_per_chunk", 1),
    ("added p50", "added_p50_us", 0),
    ("added p99", "added_p99_us", 0),
    ("1st byte p50", "first_byte_p50_us", 0),
    ("1st byte p99", "first_byte_p99_us", 0),
    ("req/s", "requests_per_second", 0),
    ("chunks/s", "chunks_per_second", 0),
)


def print_table(table: list[Cell]) -> None:
    print("CPU of the web process and of Redis; added: portal minus direct, in µs; medians over the rounds")
    print(f"{'':18}" + "".join(f"{title:>14}" for title, _, _ in COLUMNS))
    for cell in table:
        values = [getattr(cell, attribute) for _, attribute, _ in COLUMNS]
        texts = [
            "-" if value is None else f"{value:,.{digits}f}"
            for value, (_, _, digits) in zip(values, COLUMNS, strict=True)
        ]
        print(f"{cell.mode:18}" + "".join(f"{text:>14}" for text in texts))


def print_targets(goals: list[Target]) -> None:
    for goal in goals:
        print(f"{'met' if goal.met else 'MISSED':6}  {goal.what}: {goal.measured} (at most {goal.limit:g})")


def write_json(
    path: Path,
    machine: dict[str, str],
    problems: list[str],
    table: list[Cell],
    goals: list[Target],
    pairs: list[Pair],
) -> None:
    content = {
        "machine": machine,
        "valid": not problems,
        "problems": problems,
        "cells": [asdict(cell) for cell in table],
        "targets": [goal._asdict() | {"met": goal.met} for goal in goals],
        "rounds": [asdict(pair) | {"mode": pair.mode.name} for pair in pairs],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
