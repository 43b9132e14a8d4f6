"""Users from a table: what each line asks for is checked first, all lines together, and nothing is done before.

    username,role,weight,prompt_token_limit,gen_token_limit[,email,first_name,last_name]

The first line names the columns, in any order; only `username` must be there. An empty cell is the default. There is no
column for passwords: each new user gets a link with which they set their own.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from accounts import people
from accounts.errors import NameTaken
from accounts.models import LEAST_WEIGHT, MOST_WEIGHT, Role, User
from accounts.quotas import MOST

COLUMNS = (
    "username", "role", "weight", "prompt_token_limit", "gen_token_limit", "email", "first_name", "last_name",
)  # fmt: skip
MOST_LINES = 5000
_TARGETS = {"prompt_token_limit": "prompt_limit", "gen_token_limit": "generated_limit"}
"""What `people.add` calls a column, where it is another name."""
ABOUT = ("email", "first_name", "last_name")


class UnreadableTable(Exception):
    """It is no table of users at all; the message says why."""


@dataclass
class Line:
    """`number` is the line's in the file, from 1. `problems` is empty where it can be done."""

    number: int
    username: str
    values: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def asked(self) -> dict[str, Any]:
        """The values by the names of their columns."""
        columns = {target: column for column, target in _TARGETS.items()}
        return {columns.get(name, name): value for name, value in self.values.items()}


def read(text: str) -> list[Line]:
    """Raises UnreadableTable."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")), delimiter=_delimiter(text), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UnreadableTable(f"Line {reader.line_num} is no line of a CSV file: {error}.") from None
    if not rows:
        raise UnreadableTable("The file is empty.")
    names = [name.strip().lower() for name in rows[0][1]]
    if "username" not in names:
        raise UnreadableTable("The first line names the columns, and one of them is username.")
    if unknown := [name for name in names if name not in COLUMNS]:
        raise UnreadableTable(f"There is no column {unknown[0]!r}; there are {', '.join(COLUMNS)}.")
    if len(set(names)) < len(names):
        raise UnreadableTable("A column is there twice.")
    if len(rows) > MOST_LINES + 1:
        raise UnreadableTable(f"It has more than {MOST_LINES} lines; split it.")
    lines = [_line(number, names, row) for number, row in rows[1:]]
    _find_twins(lines)
    return lines


def apply(lines: list[Line]) -> Iterator[User]:
    """Makes the users of the lines without problems. A name that was taken meanwhile becomes a problem of its line."""
    for line in lines:
        if line.problems:
            continue
        values = dict(line.values)
        about = {name: values.pop(name) for name in ABOUT if name in values}
        try:
            user = people.add(line.username, None, **values)
        except NameTaken:
            line.problems.append("There is a user of this name already.")
            continue
        for name, value in about.items():
            setattr(user, name, value)
        user.save(update_fields=list(about))
        yield user


def _delimiter(text: str) -> str:
    """Spreadsheets of some countries write semicolons."""
    head = text.split("\n", 1)[0]
    return ";" if ";" in head and "," not in head else ","


def _line(number: int, names: list[str], row: list[str]) -> Line:
    cells = {name: cell.strip() for name, cell in zip(names, row, strict=False) if cell.strip()}
    line = Line(number, User.normalize_username(cells.pop("username", "")))
    if len(row) > len(names):
        line.problems.append(f"It has {len(row)} cells, and there are {len(names)} columns.")
    readers = {
        "role": _role, "weight": _weight, "prompt_token_limit": _tokens, "gen_token_limit": _tokens, "email": _email,
    }  # fmt: skip
    for name, cell in cells.items():
        try:
            line.values[_TARGETS.get(name, name)] = readers.get(name, _name)(cell)
        except (ValueError, ValidationError):
            line.problems.append(f"{name} {cell[:40]!r} is {_WRONG.get(name, 'too long')}.")
    try:
        if not line.username:
            raise ValidationError("It names nobody.")
        User._meta.get_field("username").clean(line.username, None)
    except ValidationError as error:
        line.problems += error.messages
    return line


def _find_twins(lines: list[Line]) -> None:
    """Names are one whatever their case."""
    wanted = {line.username.casefold() for line in lines}
    taken = {name.casefold() for name in User.objects.values_list("username", flat=True)} & wanted
    seen: dict[str, int] = {}
    for line in lines:
        name = line.username.casefold()
        if name in taken:
            line.problems.append("There is a user of this name already.")
        elif name in seen:
            line.problems.append(f"Line {seen[name]} has the same name.")
        seen.setdefault(name, line.number)


_WRONG = {
    "role": f"no role; there are {' and '.join(Role.values)}",
    "weight": f"no number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}",
    "prompt_token_limit": f"no whole number from 0 to {MOST}",
    "gen_token_limit": f"no whole number from 0 to {MOST}",
    "email": "no address",
}


def _role(cell: str) -> str:
    return Role(cell.capitalize()).value


def _weight(cell: str) -> float:
    weight = float(cell)
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise ValueError
    return weight


def _tokens(cell: str) -> int:
    if not (cell.isascii() and cell.isdigit() and int(cell) <= MOST):
        raise ValueError
    return int(cell)


def _email(cell: str) -> str:
    validate_email(cell)
    return cell


def _name(cell: str) -> str:
    if len(cell) > 150 or "\0" in cell:
        raise ValueError
    return cell
