"""What the portal's pages do to streams that run at the same time."""

import random
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.gateway import Gateway
from bench.measuring import Bench
from bench.programs import Mode

AT_ONCE = 64
PAGE = "/bench/slow-page"  # bench.urls
PAGE_TIMEOUT_S = 60


@dataclass
class Pages:
    """Delays of a chunk in µs, of each round with and without pages. `page_ms`: how long each page took."""

    at_once: int
    idle: list[dict[str, Any]] = field(default_factory=list)
    loaded: list[dict[str, Any]] = field(default_factory=list)
    page_ms: list[float] = field(default_factory=list)

    def ratio(self) -> float | None:
        """By how much the delay's 99th percentile grows; None where a round has no sample."""
        pairs = [(idle["p99"], loaded["p99"]) for idle, loaded in zip(self.idle, self.loaded, strict=True)]
        if not pairs or any(None in pair for pair in pairs):
            return None
        return median(loaded / idle for idle, loaded in pairs)


class Reader:
    """Loads the page again and again while a `with` block lasts, one at a time, from a thread of its own."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}{PAGE}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.page_ms: list[float] = []
        self.problem = ""

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._ended.is_set():
            begun = time.monotonic()
            try:
                with urllib.request.urlopen(self._url, timeout=PAGE_TIMEOUT_S) as answer:
                    answer.read()
            except OSError as error:
                self.problem = f"the page {PAGE} failed: {error}"
                return
            self.page_ms.append((time.monotonic() - begun) * 1000)


def measure(
    bench: Bench, portal: Gateway, mode: Mode, rounds: int, seconds: float, say: Callable[[str], None]
) -> tuple[Pages, list[str]]:
    """(what was seen, problems). Raises OSError or SubprocessError where a process is gone."""
    seen, problems = Pages(AT_ONCE), []
    for number in range(rounds):
        for loaded in random.sample((False, True), 2):
            say(f"round {number + 1} of {rounds}: {AT_ONCE} streams, {'pages' if loaded else 'no pages'}")
            if loaded:
                with Reader(portal.port) as reader:
                    measured = bench.measure_warm(portal, mode, AT_ONCE, seconds)
                seen.page_ms += reader.page_ms
                problems += [reader.problem] if reader.problem else []
            else:
                measured = bench.measure_warm(portal, mode, AT_ONCE, seconds)
            problems += measured.problems
            (seen.loaded if loaded else seen.idle).append(measured.load["chunk_delay_us"])
    return seen, problems
