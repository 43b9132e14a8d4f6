"""What a value of the original means. SQLite keeps any type in any column, so any may come. Each function takes None,
int, float or bytes, gives None for None, and raises Unreadable."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from vllm_portal.legacy.source import Unreadable

_NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d*)?\Z")
_FORMATS = (
    "%Y/%m/%d %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%Y-%m-%d %H:%M:%S %z", "%Y-%m-%d %H:%M:%S UTC",
    "%Y-%m-%d_%H-%M-%S", "%a %b %d %H:%M:%S %Y",
)  # fmt: skip
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def text(value: object) -> str | None:
    """Numbers as they are written; without null characters, which PostgreSQL cannot keep."""
    if isinstance(value, bytes):
        try:
            return storable(value.decode())
        except UnicodeDecodeError:
            raise Unreadable("is not UTF-8") from None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)


def storable(value: str) -> str:
    """Without what a database cannot keep: null characters, and halves of surrogate pairs, which JSON may hold."""
    return value.replace("\x00", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def number(value: object) -> int | None:
    """An integer of any size and sign; a fraction is cut off, an empty text is None."""
    if isinstance(value, bytes):
        written = (text(value) or "").strip()
        if not written:
            return None
        if not _NUMBER.match(written):
            raise Unreadable("is no number")
        return int(written.partition(".")[0])
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unreadable("is no number")
        return int(value)
    return value if isinstance(value, int) else None


def flag(value: object) -> bool | None:
    written = (text(value) or "").strip().lower()
    if value is None:
        return None
    if written not in _FLAGS:
        raise Unreadable("is neither true nor false")
    return _FLAGS[written]


def time(value: object) -> datetime | None:
    """UTC, also where no zone is named. Takes ISO 8601, Unix time in seconds to nanoseconds, and a few others."""
    written = (text(value) or "").strip()
    if not written:
        return None
    for read in (_unix, datetime.fromisoformat, *map(_format, _FORMATS), parsedate_to_datetime):
        try:
            found = read(written)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, TypeError, OverflowError, OSError, IndexError):
            continue
    raise Unreadable("is no time")


def _unix(written: str) -> datetime:
    seconds = float(written)
    if not math.isfinite(seconds) or (written.isdigit() and len(written) < 9):
        raise ValueError("infinite, or a date without dashes")
    parts = next((parts for parts in (1, 1e3, 1e6, 1e9) if 0 <= seconds < 1e11 * parts), None)
    if parts is None:
        raise ValueError("too large, or before 1970")
    seconds /= parts
    return datetime.fromtimestamp(seconds, UTC)


def _format(pattern: str) -> Callable[[str], datetime]:
    return lambda written: datetime.strptime(written, pattern)
