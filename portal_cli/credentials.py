"""Where the portal is, and the key for it: flags, then the environment, then what `portal login` has stored."""

import contextlib
import json
import os
import tempfile
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from portal_cli.failures import ExitCode, Failure


@dataclass(frozen=True, slots=True)
class Credentials:
    """`key` is an API key, or the access token of a portal without keys. `key_id` None: it was not made by us."""

    url: str
    key: str
    username: str = ""
    key_id: str | None = None


def path() -> Path:
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(folder) if os.path.isabs(folder) else Path.home() / ".config"
    return base / "vllm-portal" / "credentials.json"


def address(text: str) -> str:
    """The portal's URL without the parts that a request adds. Raises Failure."""
    url = text.strip() if "://" in text else f"http://{text.strip()}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or parts.username:
        raise Failure(f"{text} is no URL of a portal; it looks like https://portal.example", ExitCode.USAGE)
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def stored() -> Credentials | None:
    """Raises Failure where the file cannot be read."""
    try:
        held = json.loads(path().read_text())
        return Credentials(str(held["url"]), str(held["key"]), str(held.get("username", "")), held.get("key_id"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise Failure(f"{path()} cannot be read; log in again: portal login", ExitCode.NOT_ALLOWED) from None


def given_url(given: Namespace) -> str:
    """Of the flag or the environment; "" for neither."""
    return given.url or os.environ.get("PORTAL_URL", "")


def find(given: Namespace) -> Credentials:
    """Raises Failure where there are none. A stored key goes to the portal that it was made at, and nowhere else."""
    url, key = given_url(given), given.key or os.environ.get("PORTAL_KEY", "")
    if url and key:
        return Credentials(address(url), _sendable(key))
    held = stored()
    if held is None:
        missing = "PORTAL_KEY" if url else "PORTAL_URL" if key else "PORTAL_URL and PORTAL_KEY"
        raise Failure(f"You are not logged in: use `portal login`, or set {missing}.", ExitCode.NOT_ALLOWED)
    if key:
        return Credentials(held.url, _sendable(key))
    if url and address(url) != held.url:
        raise Failure(f"You are logged in at {held.url}, not at {address(url)}.", ExitCode.NOT_ALLOWED)
    return held


def _sendable(key: str) -> str:
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Failure("The key has characters that no key has.", ExitCode.USAGE)
    return key


def store(credentials: Credentials) -> None:
    """Nobody else can read the file, at no moment. Raises Failure."""
    target = path()
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent)  # 0600
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(credentials), file, indent=1)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise Failure(f"{target} cannot be written: {error.strerror}") from None


def forget() -> None:
    with contextlib.suppress(FileNotFoundError):
        path().unlink()
