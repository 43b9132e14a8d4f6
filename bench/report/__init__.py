"""The report, docs/performance.md with its plots, from the JSON of a whole run. Nothing in it is typed by hand but the
words in template.md, and those hold for any figures."""

from pathlib import Path
from string import Template
from typing import Any

from bench import table, targets
from bench.compare import COPES_WITH
from bench.report import plots

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"


def write(run: dict[str, Any], docs: Path = DOCS) -> None:
    """Raises KeyError where the run is not a whole one."""
    (docs / "performance.md").write_text(page(run))
    for name, draw in plots.ALL.items():
        (docs / f"performance-{name}.svg").write_text(draw(run))


def page(run: dict[str, Any]) -> str:
    plan = run["plan"]
    template = Template((HERE / "template.md").read_text())
    return template.substitute(
        machine=_facts(run),
        targets=_targets(run),
        met=sum(target["met"] for target in _judged(run)),
        judged=len(run["targets"]),
        missing=_missing(run),
        cells=_cells(run),
        left_out=_left_out(run),
        streams=_streams(run["streams"]),
        pages=_pages(run["pages"]),
        users=f"{plan['keys']:,}",
        keys_used=f"{plan['keys_used']:,}",
        rounds=plan["rounds"],
        seconds=f"{plan['seconds']:g}",
    )


def _rows(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A table in Markdown; all but the first `left` columns stand at the right."""
    rule = ["---" if number < left else "---:" for number in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def _facts(run: dict[str, Any]) -> str:
    versions = [f"{name} {version}" for name, version in run["versions"].items() if name not in run["missing"]]
    facts = {**run["machine"], "peers": ", ".join(versions) or "none"}
    return _rows(["", ""], [[name, value] for name, value in facts.items()], left=2)


def _judged(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets, each with whether it is `met` and the `verdict`."""
    made = [targets.Target(**target) for target in run["targets"]]
    return [
        {**given, "met": target.met, "verdict": target.verdict}
        for given, target in zip(run["targets"], made, strict=True)
    ]


def _targets(run: dict[str, Any]) -> str:
    head = ["target", "portal", "peer", "measured", "at least", "wanted", ""]
    rows = [
        [
            target["what"],
            _us(target["portal"]),
            _us(target["peer"]),
            targets.figure(target["measured"], target["unit"]),
            *(targets.figure(target[limit], target["unit"]) for limit in ("least", "wanted")),
            f"**{target['verdict']}**" if not target["met"] else target["verdict"],
        ]
        for target in _judged(run)
    ]
    return _rows(head, rows)


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} µs" if value < 100 else f"{value:,.0f} µs"


def _missing(run: dict[str, Any]) -> str:
    if not run["missing"]:
        return ""
    lines = [f"- {name}: {why.splitlines()[0]}" for name, why in run["missing"].items()]
    return "\n".join(["**Not on this machine, so that what is compared with it is not measured:**", "", *lines, ""])


def _cells(run: dict[str, Any]) -> str:
    cells = [table.Cell(**cell) for cell in run["cells"]]
    head = ["", "at once", "", *(title for title, _, _ in table.COLUMNS)]
    rows = []
    for number, cell in enumerate(cells):
        again = number > 0 and (cells[number - 1].mode, cells[number - 1].connections) == (cell.mode, cell.connections)
        name = f"**{cell.gateway}**" if cell.gateway == targets.PORTAL else cell.gateway
        rows.append(["" if again else cell.mode, "" if again else str(cell.connections), name, *table.texts(cell)])
    return _rows(head, rows, left=3)


def _left_out(run: dict[str, Any]) -> str:
    lines = [
        f"{name} got only what it copes with: "
        + ", ".join(f"{mode.name} with {connections} at once" for mode, connections in loads)
        + "."
        for name, loads in COPES_WITH.items()
        if name in run["gateways"]
    ]
    lines += [f"Not counted: {problem}." for problem in run["peer_problems"]]
    return " ".join(lines)


def _streams(seen: dict[str, Any]) -> str:
    share = seen["share_of_core"]
    rows = [
        ["streams at once", f"{seen['at_once']:,}, of {seen['tokens_each']} tokens each, 20 a second"],
        [
            "bodies",
            "identical to the upstream's in each byte but the time stamps" if seen["identical"] else "**DIFFERENT**",
        ],
        ["chunks per second", f"{seen['chunks_per_second']:,.0f}"],
        ["CPU of the web process", "-" if share is None else f"{share:.0%} of a core"],
        ["CPU per chunk", _us(seen["web_us_per_chunk"])],
        ["memory of the web process", f"{seen['web_rss_mb']:.0f} MB"],
        ["delay of a chunk, p50 / p99", f"{_us(seen['delay_p50_us'])} / {_us(seen['delay_p99_us'])}"],
        ["the same, direct", f"{_us(seen['direct_delay_p50_us'])} / {_us(seen['direct_delay_p99_us'])}"],
    ]
    return _rows(["", ""], rows, left=2)


def _pages(seen: dict[str, Any]) -> str:
    rows = [
        [name, *(_us(plots.median_of(seen[which], mark)) for mark in ("p50", "p99"))]
        for name, which in (("without pages", "idle"), ("while pages are loaded", "loaded"))
    ]
    return _rows(["delay of a chunk", "p50", "p99"], rows)
