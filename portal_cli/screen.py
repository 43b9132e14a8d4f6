"""What is shown. Data goes to stdout; what happens meanwhile, and errors, to stderr. Colours only on a terminal.

What comes from the portal may hold anything, a model's text or an engine's log above all: control characters, which
could move the cursor or rename the window, are left out.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from portal_cli.failures import Failure

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WIDE = 100_000  # where nobody looks, nothing is cut or wrapped


def clean(value: object) -> str:
    """One value as text; "" for None."""
    return "" if value is None else _CONTROL.sub("", str(value))


def ago(when: str | None) -> str:
    """ "3 min" since an ISO 8601 time; as it came where it is none."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(when or "")).total_seconds()
    except (ValueError, TypeError):
        return clean(when)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(int(seconds), 0)} s"


class Screen:
    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # LANG=C
        self.out, self.err = self._console(sys.stdout), self._console(sys.stderr)

    def _console(self, stream: Any) -> Console:
        on_terminal = stream.isatty()
        return Console(
            file=stream,
            markup=False,
            highlight=False,
            emoji=False,
            soft_wrap=True,
            width=None if on_terminal else _WIDE,
        )

    @property
    def is_live(self) -> bool:
        """Somebody watches: what goes on may be shown as it moves."""
        return self.err.is_terminal and not self.as_json

    def data(self, data: Any) -> None:
        """The JSON of a command; one document."""
        print(json.dumps(data, indent=2), flush=True)

    def line(self, data: Any) -> None:
        """One of many JSON documents, each on its line."""
        print(json.dumps(data), flush=True)

    def text(self, text: str, end: str = "\n") -> None:
        print(clean(text), end=end, flush=True)

    def note(self, text: str) -> None:
        """Beside the data. Not with --json: then stdout says all."""
        if not self.as_json:
            self.err.print(Text(clean(text)))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], data: Any) -> None:
        """`data` is what it is made of, for --json."""
        if self.as_json:
            return self.data(data)
        table = Table(
            box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold" if self.out.is_terminal else ""
        )
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(clean(value)) for value in row))
        with self.out.capture() as captured:
            self.out.print(table)
        print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)

    def failure(self, failure: Failure) -> None:
        if self.as_json:
            told = {"message": str(failure), "exit_code": int(failure.exit_code), "status": failure.status}
            print(json.dumps({"error": told}), file=sys.stderr, flush=True)
        else:
            self.err.print(Text(f"portal: {clean(failure)}", style="red" if self.err.is_terminal else ""))
