"""The phases of a start with their beginnings, read from vLLM's log. Pure.

    configure  reading the model's configuration       compile    torch.compile
    core       the engine's core comes up              kv_cache   memory is measured and set aside
    download   weights come from the hub               graphs     CUDA graphs are captured
    load       weights go to the GPU                   listen     the API server begins to listen

The lines are those of vLLM 0.8 to 0.32, which stamp them with month, day and time but no year and no time zone. So only
differences are taken from them. vLLM shows no progress while it downloads; it says afterwards how long that took.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

_STAMP = re.compile(r"\b(?:INFO|WARNING|ERROR|DEBUG) (\d\d-\d\d \d\d:\d\d:\d\d) ")
_DOWNLOADED = re.compile(r"Time spent downloading weights for \S+: (?P<seconds>\d{1,7}(?:\.\d{1,9})?) s")
_PROGRESS = re.compile(
    r"\.safetensors: +(?P<percent>\d{1,3})%\|[^|]*\| (?P<done>[\d.]+[kMGT]?)/(?P<all>[\d.]+[kMGT]?) "
    r"\[[^\],]*, +(?P<speed>[\d.]+[kMGT]?)B/s"
)
_BEGINS = [
    ("configure", re.compile(r"non-default args: ")),
    ("core", re.compile(r"Initializing an? (?:V1 )?LLM engine")),
    ("load", re.compile(r"Starting to load model |Loading \S+ checkpoint shards: ")),
    (
        "compile",
        re.compile(r"for vLLM's torch\.compile|Dynamo bytecode transform|Compiling a graph|Warming up model"),
    ),
    ("kv_cache", re.compile(r"Available KV cache memory: |KV cache size: |(?:Explicitly|Auto) set \(.*for KV cache")),
    ("graphs", re.compile(r"Capturing CUDA graphs?|Capturing cudagraphs")),
    ("listen", re.compile(r"Starting vLLM (?:API )?server")),
]
_DETAILS = [
    ("load", re.compile(r"Model loading took (?P<words>[\d.]+ Gi?B)")),
    ("kv_cache", re.compile(r"KV cache size: (?P<words>[\d,]+ tokens)")),
    ("compile", re.compile(r"torch\.compile (?:takes|took) (?P<words>[\d.]+ s)")),
]


_ZONES_S = 900
"""Time zones are apart by quarters of an hour."""


@dataclass
class Phase:
    """`started_s`: seconds after the process began."""

    phase: str
    started_s: float
    detail: str = ""


def phases(log: str, began: datetime) -> list[Phase]:
    """In the order of their beginnings; of those not seen (yet) none. `began`: when the process did, by a clock that
    differs from the log's by its time zone only; its first line comes within a quarter of an hour."""
    found: dict[str, Phase] = {}
    first: datetime | None = None
    now_s = first_s = 0.0
    downloading = True
    for line in re.split(r"[\r\n]+", log):
        if stamp := _STAMP.search(line):
            at = _time(stamp[1])
            if at and first is None:
                first, first_s = at, _first_s(at, began)
            if at and first:
                now_s = max(first_s + (at - first).total_seconds(), now_s)
        for name, pattern in _BEGINS:
            if name not in found and pattern.search(line):
                found[name] = Phase(name, now_s)
        if (downloaded := _DOWNLOADED.search(line)) and downloading:
            downloading = False  # of several workers the first counts
            seconds = float(downloaded["seconds"])
            found["download"] = Phase("download", max(now_s - seconds, 0.0), f"{seconds:.0f} s")
            found["load"] = Phase("load", now_s)
        elif progress := _PROGRESS.search(line):
            download = found.setdefault("download", Phase("download", now_s))
            download.detail = "{percent}%, {done}B of {all}B, {speed}B/s".format(**progress.groupdict())
        for name, pattern in _DETAILS:
            if name in found and (told := pattern.search(line)):
                found[name].detail = told["words"]
    return sorted(found.values(), key=lambda phase: phase.started_s)


def _first_s(stamp: datetime, began: datetime) -> float:
    """Stamps have whole seconds, so the first may seem to be a little before the beginning."""
    ahead = (stamp.replace(tzinfo=UTC) - began).total_seconds() % _ZONES_S
    return 0.0 if ahead > _ZONES_S - 5 else ahead


def _time(stamp: str) -> datetime | None:
    """In a leap year, so that the 29th of February is a day. None: no time is written so."""
    try:
        return datetime.strptime(f"2000-{stamp}", "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None
