"""What an import did, row by row where something was not as it should be. Holds no value of a row: messages are
private, and so are passwords."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN = 20
"""Lines of each kind on the console; the file has all."""


@dataclass(slots=True)
class Tally:
    """read is the sum of all the others, once the import has ended."""

    read: int = 0
    new: int = 0
    present: int = 0
    changed: int = 0
    skipped: int = 0
    not_ours: int = 0
    """Rows of a kind that the portal takes nothing of."""


@dataclass(frozen=True, slots=True)
class Line:
    """`rowid` None: it is about the whole table."""

    table: str
    rowid: int | None
    why: str

    def __str__(self) -> str:
        return f"{self.table}{'' if self.rowid is None else f' row {self.rowid}'}: {self.why}"


@dataclass(slots=True)
class Report:
    dry_run: bool = False
    tables: dict[str, Tally] = field(default_factory=dict)
    problems: list[Line] = field(default_factory=list)
    """Rows that were left out, and tables that could not be read."""
    notes: list[Line] = field(default_factory=list)
    """Rows that were taken over, but not with each value as it was."""

    def tally(self, table: str) -> Tally:
        return self.tables.setdefault(table, Tally())

    def skip(self, table: str, rowid: int, why: str) -> None:
        self.tally(table).skipped += 1
        self.problem(table, rowid, why)

    def problem(self, table: str, rowid: int | None, why: str) -> None:
        self.problems.append(Line(table, rowid, why))

    def note(self, table: str, rowid: int | None, why: str) -> None:
        self.notes.append(Line(table, rowid, why))

    @property
    def exit_code(self) -> int:
        """0: all was taken over; 1: some rows were not."""
        return 1 if self.problems else 0

    def as_json(self) -> dict[str, Any]:
        return {"exit_code": self.exit_code, **asdict(self)}

    def lines(self) -> list[str]:
        """For people."""
        columns = ("read", "new", "present", "changed", "skipped", "not_ours")
        head = ("", "read", "new", "already there", "changed", "skipped", "not taken")
        rows = [head, *((name, *(str(getattr(tally, c)) for c in columns)) for name, tally in self.tables.items())]
        widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
        lines = ["Dry run: nothing was stored. It would be:"] if self.dry_run else []
        for name, *cells in rows:
            numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join((name.ljust(widths[0]), *numbers)))
        return lines + self._about("Left out", self.problems) + self._about("Taken over, with a difference", self.notes)

    def _about(self, title: str, lines: list[Line]) -> list[str]:
        if not lines:
            return []
        shown = [f"{title} ({len(lines)}):", *(f"  {line}" for line in lines[:SHOWN])]
        rest = Counter((line.table, line.why) for line in lines[SHOWN:])
        return shown + [f"  … {table}: {why} ({count} more)" for (table, why), count in rest.most_common(SHOWN)]
