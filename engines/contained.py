"""Files that an engine may have written: nothing is read that is no plain file inside, and nothing without a bound."""

from pathlib import Path


def read(path: Path, inside: Path, most: int) -> bytes | None:
    """None: it is not there, no plain file, larger than `most` bytes, or leads outside."""
    if not is_inside(path, inside):
        return None
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError:
        return None
    return content if len(content) <= most else None


def is_inside(path: Path, inside: Path) -> bool:
    try:
        return path.is_file() and path.resolve().is_relative_to(inside.resolve())
    except (OSError, RuntimeError):
        return False
