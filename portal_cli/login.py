"""`login` makes an API key of this machine's own; `logout` revokes it."""

import getpass
import socket
import sys
from argparse import Namespace

from portal_cli import credentials
from portal_cli.credentials import Credentials
from portal_cli.failures import ExitCode, Failure
from portal_cli.portal import Portal, part
from portal_cli.screen import Screen

SCOPES = ["inference", "management", "read-only"]


def login(given: Namespace, screen: Screen) -> None:
    url = credentials.address(credentials.given_url(given) or _asked("URL of the portal: "))
    if given.with_key:
        made = _of_key(url, _secret("API key: "))
    else:
        made = _of_password(url, given.username or _asked("Username: "), given.key_name)
    _revoke_former(made, screen)
    credentials.store(made)
    if screen.as_json:
        screen.data({"url": made.url, "username": made.username, "key_id": made.key_id})
    else:
        screen.text(f"Logged in at {made.url} as {made.username}.")


def _of_password(url: str, username: str, key_name: str | None) -> Credentials:
    answer = {"username": username, "password": _secret(f"Password of {username}: ")}
    token = Portal(Credentials(url, "")).ask("POST", "/token", json=answer)["access_token"]
    name = key_name or f"portal on {socket.gethostname()}"
    made = Portal(Credentials(url, token)).ask("POST", "/api/v1/keys", json={"name": name[:100], "scopes": SCOPES})
    return Credentials(url, made["key"], username, str(made["id"]))


def _of_key(url: str, key: str) -> Credentials:
    """Proven to work before it takes the place of another one."""
    found = Credentials(url, key)
    return Credentials(url, key, Portal(found).ask("GET", "/api/v1/key")["username"])


def _revoke_former(made: Credentials, screen: Screen) -> None:
    """Whoever logs in every day shall not collect keys."""
    try:
        former = credentials.stored()
        if former and former.key_id and former.key != made.key:
            _revoke(former)
    except Failure as failure:
        screen.note(f"The key from before could not be revoked: {failure}")


def _revoke(held: Credentials) -> None:
    try:
        Portal(held).ask("DELETE", f"/api/v1/keys/{part(str(held.key_id))}")
    except Failure as failure:
        if failure.exit_code not in (ExitCode.NOT_ALLOWED, ExitCode.NOT_FOUND):  # these two: it is worthless already
            raise


def logout(given: Namespace, screen: Screen) -> None:
    """The key is forgotten here even where the portal cannot be told."""
    held = credentials.stored()
    credentials.forget()
    if held and held.key_id:
        try:
            _revoke(held)
        except Failure as failure:
            raise Failure(
                f"The key is forgotten, but still counts at {held.url}: {failure}", failure.exit_code
            ) from None
    if screen.as_json:
        screen.data({"url": held.url if held else None})
    else:
        screen.text(f"Logged out at {held.url}." if held else "You were not logged in.")


def _asked(question: str) -> str:
    if not sys.stdin.isatty():
        missing = "--url" if "URL" in question else "--username"
        raise Failure(f"There is nobody to ask: give {missing}.", ExitCode.USAGE)
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip()
    if not answer:
        raise Failure("Nothing was typed.", ExitCode.USAGE)
    return answer


def _secret(question: str) -> str:
    """Typed without being shown, or the first line of what is piped in."""
    secret = getpass.getpass(question) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise Failure("Nothing was typed.", ExitCode.USAGE)
    return secret
