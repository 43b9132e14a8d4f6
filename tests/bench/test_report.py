"""The report says what the run's JSON says, whatever is missing from it."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import report
from bench.compare import COPES_WITH
from bench.report import plots


@pytest.fixture
def run():
    return json.loads((Path(__file__).parent / "run.json").read_text())


def row_of(page, start):
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {start}")]
    return [field.strip() for field in row.strip("|").split("|")]


def test_a_target_stands_with_both_figures_and_its_verdict(run):
    page = report.page(run)

    assert row_of(page, "CPU per request, to vllm-router")[1:] == [
        "120 µs", "44.6 µs", "2.70x", "1.00x", "0.60x", "**MISSED**",
    ]  # fmt: skip
    assert row_of(page, "CPU per request, to LiteLLM")[3:] == ["1/417", "1/200", "1/400", "met, as wanted"]
    assert row_of(page, "CPU per chunk, to nginx")[3:] == ["-", "1.60x", "1.15x", "**NOT MEASURED**"]
    assert row_of(page, "memory at its most")[3:] == ["118 MB", "150 MB", "100 MB", "met"]
    assert "2 of 4 targets are met." in page


def test_each_cell_is_in_the_table(run):
    page = report.page(run)

    figures = ["| 10,234.5 |", "| 31.2 |", "| -40 |", "| 27,447 |", "| **portal** | 120.5 | 50.2 |"]
    assert [figure for figure in figures if figure not in page] == []


def test_what_was_left_out_is_said(run):
    page = report.page(run)

    assert "LiteLLM got only what it copes with" in page
    assert all(f"{mode.name} with {connections} at once" in page for mode, connections in COPES_WITH["LiteLLM"])
    assert "Not counted: answers, 16 at once, LiteLLM: errors" in page


def test_a_peer_that_is_missing_is_said_with_the_reason(run):
    run["missing"] = {"nginx": "nginx cannot be installed: no network\nmore"}

    page = report.page(run)
    assert "- nginx: nginx cannot be installed: no network\n" in page
    assert "nginx 1.22.1" not in page


def test_bodies_that_differ_are_said(run):
    assert "identical to the upstream's" in report.page(run)

    run["streams"]["identical"] = False
    assert "**DIFFERENT**" in report.page(run)


def test_nothing_of_the_template_is_left_unfilled(run):
    assert "$" not in report.page(run)


def parsed(svg):
    return ElementTree.fromstring(svg)  # noqa: S314 (ours)


def texts(svg):
    return [element.text for element in parsed(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", plots.ALL)
def test_a_plot_is_well_formed_and_keeps_inside_its_card(run, name):
    svg = plots.ALL[name](run)

    drawing = parsed(svg)
    width, height = float(drawing.get("width")), float(drawing.get("height"))
    for element in drawing.iter():
        at = [float(element.get(x)) for x in ("x", "x1", "x2", "cx") if element.get(x)]
        down = [float(element.get(y)) for y in ("y", "y1", "y2", "cy") if element.get(y)]
        assert all(0 <= x <= width for x in at), element.attrib
        assert all(0 <= y <= height for y in down), element.attrib


def test_the_bars_are_in_order_and_the_longest_is_cut(run):
    said = texts(plots.cpu(run))

    assert [text for text in said if text in run["gateways"]][:4] == ["nginx", "vllm-router", "portal", "LiteLLM"]
    assert {"15.3", "44.6", "120 + 50", "10,234", "31.2", "13.8"} <= set(said)


def test_a_plot_without_a_figure_says_so(run):
    run["cells"] = []

    assert texts(plots.cpu(run)).count("not measured") == 2
    assert "not measured" in texts(plots.latency(run))


def test_text_in_a_plot_is_escaped(run):
    run["cells"][1]["gateway"] = '<b> & "'

    assert '<b> & "' in texts(plots.latency(run))


def test_all_of_it_is_written(run, tmp_path):
    report.write(run, tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {
        "performance.md", "performance-cpu.svg", "performance-latency.svg", "performance-delay.svg",
    }  # fmt: skip
    links = [name for name in plots.ALL if f"(performance-{name}.svg)" in (tmp_path / "performance.md").read_text()]
    assert links == list(plots.ALL)
