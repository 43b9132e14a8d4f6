"""One secret per purpose, made at the first start and kept in `<data_dir>/secrets/`, readable by the portal alone."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from vllm_portal.config import get_config
from vllm_portal.errors import OperatorError

PURPOSES = ("django", "jwt", "encryption", "cache-salt")


def secret_key(purpose: str) -> str:
    """The secret for one purpose, 256 random bits as 64 hex digits. Made by whichever process asks first."""
    if purpose not in PURPOSES:
        raise ValueError(f"no such purpose: {purpose}")
    path = get_config().data_dir / "secrets" / purpose
    try:
        return _read(path) or _make(path)
    except OSError as error:
        raise OperatorError(f"cannot read or write {path}: {error.strerror}") from None


def _read(path: Path) -> str | None:
    try:
        value = path.read_text().strip()
    except FileNotFoundError:
        return None
    if len(value) < 64:
        raise OperatorError(f"{path} is damaged: it must hold 64 hex digits; restore it from a backup")
    return value


def _make(path: Path) -> str:
    """Writes a file of its own and links it into place: of two processes at once one wins, the other reads."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    return path.read_text().strip()


def portal_id() -> str:
    """Names this portal (this data directory) in the labels of what it starts. Not secret."""
    return hashlib.sha256(b"portal id of " + secret_key("encryption").encode()).hexdigest()[:12]
