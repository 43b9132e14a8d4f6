"""Kinds of values that settings have, and how they are written."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def _split(value: Any) -> Any:
    """Lets a list arrive as `a,b` in the environment and as a list in the file."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def absolute(path: Path) -> Path:
    """What is relative is below the project."""
    path = path.expanduser()
    return path if path.is_absolute() else PROJECT_ROOT / path


StrList = Annotated[list[str], NoDecode, BeforeValidator(_split)]
AbsolutePath = Annotated[Path, AfterValidator(absolute)]
PathList = Annotated[list[AbsolutePath], NoDecode, BeforeValidator(_split)]
