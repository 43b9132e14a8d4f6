"""A run as a JSON file, from which the report is made, and as text on the console."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import streams, table, targets
from bench.scenarios import Plan, Seen


def content(machine: dict[str, str], plan: Plan, seen: Seen) -> dict[str, Any]:
    return {
        "machine": machine,
        "plan": asdict(plan),
        "versions": seen.versions,
        "missing": seen.missing,
        "valid": not seen.problems,
        "problems": seen.problems,
        "peer_problems": seen.peer_problems,
        "gateways": seen.gateways,
        "cells": [asdict(cell) for cell in seen.cells],
        "targets": [asdict(target) for target in seen.targets],
        "streams": asdict(seen.streams) if seen.streams else None,
        "pages": asdict(seen.pages) if seen.pages else None,
        "rounds": [[asdict(measured) for measured in each.by_gateway.values()] for each in seen.rounds],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Raises OSError where no whole run was made yet."""
    return json.loads(path.read_text())


def lines(seen: Seen) -> list[str]:
    text = table.lines(seen.cells) if seen.rounds else []
    text += streams.lines(seen.streams) if seen.streams else []
    if seen.pages:
        text.append(f"{len(seen.pages.page_ms)} pages beside {seen.pages.at_once} streams")
    return text + targets.lines(seen.targets)
