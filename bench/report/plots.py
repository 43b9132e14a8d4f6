"""The report's plots, from the JSON of a run."""

import math
from collections.abc import Callable
from statistics import median
from typing import Any

from bench import targets
from bench.compare import ANSWERS, PACED
from bench.report.svg import CARD, GRID, INK, MUTED, Drawing

WIDTH, MARGIN = 820, 28
COLOURS = {"portal": "#2563eb", "nginx": "#3f9c6b", "vllm-router": "#c2752d", "LiteLLM": "#a2497c", "direct": "#8a94a0"}
REDIS = "#93b4f5"
CUT_AT = 8  # a bar longer than this many times the next one is cut off


def cpu(run: dict[str, Any]) -> str:
    drawing = Drawing(WIDTH, 252, "CPU time per request and per streamed chunk, by gateway")
    half = WIDTH / 2
    _bars(drawing, run, MARGIN, half - 20, "CPU per request, 64 answers at once", (ANSWERS.name, 64), "request")
    _bars(
        drawing,
        run,
        half + 20,
        WIDTH - MARGIN,
        "CPU per streamed chunk, 256 streams",
        (PACED.name, 256),
        "chunk",
    )
    drawing.rect(MARGIN, 224, 11, 11, COLOURS["portal"])
    drawing.text(MARGIN + 17, 234, "web process", MUTED, 12)
    drawing.rect(MARGIN + 102, 224, 11, 11, REDIS)
    drawing.text(MARGIN + 119, 234, "its Redis", MUTED, 12)
    drawing.text(WIDTH - MARGIN, 234, "µs of user and system time; shorter is better", MUTED, 12, "end")
    return str(drawing)


def _bars(
    drawing: Drawing, run: dict[str, Any], left: float, right: float, title: str, place: tuple[str, int], per: str
) -> None:
    drawing.text(left, 36, title, size=14, bold=True)
    cells = [cell for cell in run["cells"] if (cell["mode"], cell["connections"]) == place]
    bars = []
    for cell in cells:
        own, redis = cell[f"cpu_us_per_{per}"], cell["redis_us_per_request"] if per == "request" else None
        if own is not None:
            bars.append((cell["gateway"], own, redis or 0))
    if not bars:
        drawing.text(left, 70, "not measured", MUTED)
        return
    bars.sort(key=lambda bar: bar[1] + bar[2])
    totals = [own + redis for _, own, redis in bars]
    cut = len(totals) > 1 and totals[-1] > CUT_AT * totals[-2]
    label, longest = left + 84, totals[-2] if cut else totals[-1]
    scale = (right - label - 78) / longest * (0.8 if cut else 1)
    for number, (name, own, redis) in enumerate(bars):
        y = 58 + number * 40
        drawing.text(label - 10, y + 16, name, anchor="end", bold=name == targets.PORTAL)
        end = label + min((own + redis) * scale, right - label - 78)
        if redis:
            drawing.rect(label, y, end - label, 24, REDIS)
        drawing.rect(label, y, min(own * scale, end - label), 24, COLOURS[name])
        if cut and number == len(bars) - 1:
            for gap in (0.62, 0.66):  # it goes on for longer than there is room
                x = label + (end - label) * gap
                drawing.line(x - 4, y + 28, x + 4, y - 4, CARD, 4)
        figure = f"{own:,.0f} + {redis:,.0f}" if redis else f"{own:,.1f}" if own < 100 else f"{own:,.0f}"
        drawing.text(end + 8, y + 16, figure, MUTED)
    drawing.line(label - 0.5, 52, label - 0.5, 52 + 40 * len(bars), INK)


def latency(run: dict[str, Any]) -> str:
    groups = []
    for connections in sorted({cell["connections"] for cell in run["cells"] if cell["mode"] == ANSWERS.name}):
        rows = [
            (cell["gateway"], cell["added_p50_us"], cell["added_p99_us"])
            for cell in run["cells"]
            if cell["mode"] == ANSWERS.name and cell["connections"] == connections and cell["added_p50_us"] is not None
        ]
        groups.append((f"{connections} at once", rows))
    return _delays("What a gateway adds to the time of an answer", groups, run)


def delay(run: dict[str, Any]) -> str:
    pages, streams = run["pages"], run["streams"]
    beside = [
        (name, median_of(pages[which], "p50"), median_of(pages[which], "p99"))
        for name, which in (("without pages", "idle"), ("pages loaded", "loaded"))
    ]
    many = [
        ("direct", streams["direct_delay_p50_us"], streams["direct_delay_p99_us"]),
        ("portal", streams["delay_p50_us"], streams["delay_p99_us"]),
    ]
    groups = [(f"{pages['at_once']} streams", beside), (f"{streams['at_once']:,} streams", many)]
    return _delays("Delay of a chunk on its way to the client", groups, run)


def _delays(
    title: str, groups: list[tuple[str, list[tuple[str, float | None, float | None]]]], run: dict[str, Any]
) -> str:
    """Lines from p50 to p99 on a logarithmic scale of time."""
    row, gap, top = 24, 16, 84
    height = top + sum(row * len(rows) + gap for _, rows in groups) + 34
    drawing = Drawing(WIDTH, height, title)
    drawing.text(MARGIN, 36, title, size=14, bold=True)
    drawing.dot(MARGIN + 6, 56, 4.5, MUTED)
    drawing.text(MARGIN + 18, 60, "p50", MUTED, 12)
    drawing.dot(MARGIN + 62, 56, 4.5, MUTED, hollow=True)
    drawing.text(MARGIN + 74, 60, "p99; the scale is logarithmic, further left is better", MUTED, 12)
    left, right = MARGIN + 210, WIDTH - MARGIN - 20
    times = [max(time, 1.0) for _, rows in groups for _, *both in rows for time in both if time is not None]
    if not times:
        drawing.text(MARGIN, top, "not measured", MUTED)
        return str(drawing)
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    high = max(high, low + 1)

    def x(time: float) -> float:
        return left + (right - left) * (math.log10(max(time, 1.0)) - low) / (high - low)

    for power in range(low, high + 1):
        drawing.line(x(10.0**power), top - 10, x(10.0**power), height - 34)
        drawing.text(x(10.0**power), height - 14, _time(10.0**power), MUTED, 12, "middle")
    y = top
    for name, rows in groups:
        drawing.text(MARGIN, y + 15, name, bold=True)
        for gateway, p50, p99 in rows:
            colour = COLOURS.get(gateway, COLOURS[targets.PORTAL])
            drawing.text(left - 14, y + 15, gateway, anchor="end", bold=gateway == targets.PORTAL)
            if p50 is not None and p99 is not None:
                drawing.line(x(p50), y + 11, x(p99), y + 11, colour, 2)
                drawing.dot(x(p99), y + 11, 4.5, colour, hollow=True)
                drawing.dot(x(p50), y + 11, 4.5, colour)
            y += row
        y += gap
        if name != groups[-1][0]:
            drawing.line(MARGIN, y - gap / 2, WIDTH - MARGIN, y - gap / 2, GRID)
    return str(drawing)


def _time(us: float) -> str:
    return f"{us:g} µs" if us < 1000 else f"{us / 1000:g} ms" if us < 1e6 else f"{us / 1e6:g} s"


def median_of(rounds: list[dict[str, Any]], mark: str) -> float | None:
    """None where no round has a sample."""
    values = [each[mark] for each in rounds if each[mark] is not None]
    return median(values) if values else None


ALL: dict[str, Callable[[dict[str, Any]], str]] = {"cpu": cpu, "latency": latency, "delay": delay}
