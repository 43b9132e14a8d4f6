"""Sets up the upstream, the portal and its peers, and runs the parts of the benchmark that were asked for."""

import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import compare, machine, pages, streams, table, targets
from bench.gateway import Gateway, Keys
from bench.measuring import Bench
from bench.pages import Pages
from bench.peers import KINDS, Missing, Peer
from bench.portal import Portal
from bench.programs import Mode, Upstream
from bench.streams import Streams
from bench.targets import Target

MODEL = "bench"
Say = Callable[[str], None]


@dataclass
class Plan:
    """What to measure and how much of it. The tokens of each stream give its length, with the pauses between them."""

    parts: tuple[str, ...]
    seconds: float
    rounds: int = 3
    streams: int = targets.STREAMS
    loads: tuple[compare.Load, ...] = compare.FULL
    peers: tuple[str, ...] = tuple(KINDS)
    keys: int = 10_000
    keys_used: int = 500
    streams_tokens: int = 100
    streams_seconds: float = 5
    pages_mode: Mode = compare.PACED
    pages_seconds: float = 3

    @classmethod
    def quick(cls, parts: tuple[str, ...], seconds: float) -> "Plan":
        short = compare.PACED._replace(max_tokens=16)
        return cls(
            parts,
            seconds,
            rounds=1,
            streams=64,
            loads=compare.QUICK,
            peers=(),
            keys=200,
            keys_used=100,
            streams_tokens=10,
            streams_seconds=seconds,
            pages_mode=short,
            pages_seconds=seconds,
        )


@dataclass
class Seen:
    """What came out. With `problems` all figures mean nothing; `peer_problems` took only what they name."""

    gateways: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    rounds: list[compare.Round] = field(default_factory=list)
    streams: Streams | None = None
    pages: Pages | None = None
    targets: list[Target] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    peer_problems: list[str] = field(default_factory=list)

    @property
    def cells(self) -> list[table.Cell]:
        return table.cells(self.rounds, self.gateways)


class Stand:
    """All that runs while it is measured; `at_the_end` stops it. Gateways get one core, everything else the other."""

    def __init__(self, plan: Plan, at_the_end: ExitStack, portal_core: int, load_core: int, say: Say) -> None:
        self.plan, self.say, self.at_the_end = plan, say, at_the_end
        self.portal_core = portal_core
        self.seen = Seen()
        machine.allow_files(streams.files_for(plan.streams))
        self.directory = Path(at_the_end.enter_context(tempfile.TemporaryDirectory(prefix="portal-bench-")))
        self.keys = Keys.make(self.directory, plan.keys, plan.keys_used)
        self.peers = self._installed() if "compare" in plan.parts else []
        at_the_end.enter_context(machine.pinned(load_core))
        self.upstream = Upstream(MODEL)
        at_the_end.callback(self.upstream.stop)
        self.upstream.start()
        self.bench = Bench(self.upstream)
        self.direct = Gateway(table.DIRECT, self.upstream.port, self.keys.used)
        with machine.pinned(portal_core):
            self.portal = self._started_portal()

    def run(self) -> Seen:
        """Breaks off, with a problem, where a process of the portal is gone."""
        seen = self.seen
        parts = {"compare": self._compare, "streams": self._streams, "pages": self._pages}
        try:
            seen.problems += self.bench.awaken(self.portal)
            for part in self.plan.parts:
                parts[part]()
        except (OSError, subprocess.SubprocessError) as error:
            seen.problems.append(f"broken off: {error}")
        return seen

    def _installed(self) -> list[Peer]:
        peers = []
        for name in self.plan.peers:
            self.say(f"looking for {name}, or installing it")
            peer = Peer(name)
            try:
                self.seen.versions[name] = peer.install()
                peers.append(peer)
            except Missing as error:
                self.seen.missing[name] = str(error)
        return peers

    def _started_portal(self) -> Gateway:
        self.say("starting the portal")
        portal = Portal(self.upstream.port, MODEL, self.keys)
        self.at_the_end.callback(portal.stop)
        return portal.start()

    def _started_peers(self) -> list[Gateway]:
        gateways = []
        for peer in self.peers:
            self.say(f"starting {peer.name}")
            self.at_the_end.callback(peer.stop)
            try:
                gateway = peer.start(self.directory / peer.name, self.upstream.port, MODEL, self.keys)
                if problems := self.bench.awaken(gateway):
                    raise Missing("; ".join(problems))
                gateways.append(gateway)
            except Missing as error:
                peer.stop()
                self.seen.missing[peer.name] = str(error)
        return gateways

    def _compare(self) -> None:
        with machine.pinned(self.portal_core):
            peers = self._started_peers()
        gateways = [self.direct, self.portal, *peers]
        self.seen.gateways = [gateway.name for gateway in gateways]
        plan, seen = self.plan, self.seen
        try:
            for each in compare.compare(self.bench, gateways, plan.loads, plan.rounds, plan.seconds, self.say):
                seen.rounds.append(each)
                for name, measured in each.by_gateway.items():
                    (seen.peer_problems if name in KINDS else seen.problems).extend(measured.problems)
        finally:
            for peer in self.peers:
                peer.stop()
        seen.targets += targets.compared(seen.rounds) if plan.peers else []

    def _streams(self) -> None:
        self.say(f"{self.plan.streams} streams at once")
        self.seen.streams, problems = streams.measure(
            self.bench, self.direct, self.portal, self.plan.streams, self.plan.streams_tokens, self.plan.streams_seconds
        )
        self.seen.problems += problems
        if self.plan.streams == targets.STREAMS:
            self.seen.targets.append(targets.memory(self.seen.streams.web_rss_mb))

    def _pages(self) -> None:
        plan = self.plan
        self.seen.pages, problems = pages.measure(
            self.bench, self.portal, plan.pages_mode, plan.rounds, plan.pages_seconds, self.say
        )
        self.seen.problems += problems
        self.seen.targets.append(targets.pages(self.seen.pages.ratio()))
