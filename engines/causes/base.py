"""What a known cause of a failed start is. Pure.

A pattern has to match from the start of a line on, behind the names of exceptions at most. So a line that only quotes
an error does not count.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Groups = Mapping[str, str]
Change = dict[str, Any]
"""Options of `POST /api/v1/engines` and their new values; None: without. {}: the same start again may work."""

_LEAD = r"(?m)^[ \t]*(?:[A-Za-z_][\w.]*: |Value error, )*(?:"


@dataclass(frozen=True)
class Known:
    """`cause` and `advice` may name the pattern's groups. `change` makes of them what may cure it; None: nothing that
    a user can change. `serving`: it also ends an engine that has come up."""

    code: str
    pattern: re.Pattern[str]
    cause: str
    advice: str
    change: Callable[[Groups], Change | None]
    serving: bool


def nothing(groups: Groups) -> None:
    return None


def again(groups: Groups) -> Change:
    return {}


def length(group: str) -> Callable[[Groups], Change]:
    return lambda groups: {"max_model_len": int(groups[group])}


def without(option: str) -> Callable[[Groups], Change]:
    return lambda groups: {option: None}


def fewer_gpus(groups: Groups) -> Change:
    """The largest power of two of what is there: numbers of heads are mostly multiples of one."""
    return {"tensor_parallel_size": 1 << (int(groups["there"]).bit_length() - 1)}


def divisor(groups: Groups) -> Change:
    heads, asked = int(groups["heads"]), int(groups["asked"])
    fitting = [size for size in range(1, min(heads, asked, 1024)) if heads % size == 0]
    return {"tensor_parallel_size": max(fitting, default=1)}


def known(
    code: str,
    pattern: str,
    cause: str,
    advice: str,
    change: Callable[[Groups], Change | None] = nothing,
    serving: bool = False,
) -> Known:
    return Known(code, re.compile(f"{_LEAD}{pattern})"), cause, advice, change, serving)


OUT_OF_MEMORY = r"(?:(?:CUDA|HIP) out of memory|CUDA error: out of memory)"


def within(function: str, pattern: str) -> str:
    """The error of a traceback that goes through this function. Its frames stand above its message."""
    return rf'File "[^"\n]*", line \d+, in {function}\n(?:[^\n]*\n){{0,120}}?[^\n]*{pattern}'
