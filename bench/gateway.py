"""What is measured: somewhere to send requests, the keys to send, and the processes that do the work there."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from bench import machine
from bench.programs import Usage


class Keys(NamedTuple):
    """Files with a key a line: all that a gateway knows, and the first of them, which requests bring."""

    known: Path
    used: Path

    @classmethod
    def make(cls, directory: Path, known: int, used: int) -> "Keys":
        """In the form of the portal's."""
        keys = [f"sk-{secrets.token_hex(24)}\n" for _ in range(known)]
        made = cls(directory / "keys-known", directory / "keys-used")
        made.known.write_text("".join(keys))
        made.used.write_text("".join(keys[:used]))
        return made


@dataclass
class Gateway:
    """`name` stands in the report. `keys` is a file with a key a line, which requests take in turn.

    `processes` finds the pids of each part whose CPU time is told apart; the first part is the gateway itself. None at
    all: the upstream, asked directly. `ledger` is what the gateway has counted itself, where it does, and
    `looked_up_since` how many keys it has had to look up since then, where it tells.
    """

    name: str
    port: int
    keys: Path
    processes: dict[str, Callable[[], list[int]]] = field(default_factory=dict)
    ledger: Callable[[], Usage] | None = None
    looked_up_since: Callable[[datetime], int] | None = None

    def cpu_us(self) -> dict[str, float]:
        """User and system time of each part since it was started. Raises OSError where a process is gone."""
        return {part: machine.cpu_ns(pids()) / 1000 for part, pids in self.processes.items()}

    @property
    def key_count(self) -> int:
        return len(self.keys.read_text().splitlines())
