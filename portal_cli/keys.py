"""`keys`: API keys for programs."""

from argparse import Namespace
from datetime import UTC, datetime, timedelta
from typing import Any

from portal_cli.credentials import find
from portal_cli.failures import ExitCode, Failure
from portal_cli.portal import Portal, part
from portal_cli.screen import Screen, ago

PATH = "/api/v1/keys"


def keys_list(given: Namespace, screen: Screen) -> None:
    """An admin's list has the keys of all."""
    found = list(Portal(find(given)).pages(PATH, **({} if given.all else {"revoked": "false"})))
    rows = [
        (
            key["id"], key["username"], key["name"], _shown(key), ", ".join(key["scopes"]),
            ", ".join(key["models"]) or "all", _day(key["expires_at"]) or "never",
            f"{ago(key['last_used_at'])} ago" if key["last_used_at"] else "never",
            *([_day(key["revoked_at"])] if given.all else []),
        )
        for key in found
    ]  # fmt: skip
    columns = ["ID", "USER", "NAME", "KEY", "SCOPES", "MODELS", "EXPIRES", "LAST USED"]
    screen.table([*columns, *(["REVOKED"] if given.all else [])], rows, found)


def _shown(key: dict[str, Any]) -> str:
    return f"{key['prefix']}…{key['last_four']}"


def _day(when: str | None) -> str:
    return (when or "")[:10]


def keys_make(given: Namespace, screen: Screen) -> None:
    wish: dict[str, Any] = {"name": given.name, "scopes": given.scope or ["inference"]}
    if given.model:
        wish["models"] = given.model
    if given.days is not None:
        wish["expires_at"] = (datetime.now(UTC) + timedelta(days=given.days)).isoformat()
    for name in ("prompt_token_limit", "gen_token_limit"):
        if getattr(given, name) is not None:
            wish[name] = getattr(given, name)
    made = Portal(find(given)).ask("POST", PATH, json=wish)
    if screen.as_json:
        return screen.data(made)
    screen.text(made["key"])
    screen.note("It is shown this once.")


def keys_revoke(given: Namespace, screen: Screen) -> None:
    portal = Portal(find(given))
    key = _named(portal, given.name)
    portal.ask("DELETE", f"{PATH}/{part(str(key['id']))}")
    if screen.as_json:
        screen.data(key)
    else:
        screen.text(f"{key['name']} ({_shown(key)}) is revoked.")


def _named(portal: Portal, name: str) -> dict[str, Any]:
    """By id; else by name or last four, where one of the caller's keys alone has it."""
    valid = list(portal.pages(PATH, revoked="false"))
    found = [key for key in valid if name == str(key["id"])]
    if not found:
        username = portal.ask("GET", "/api/v1/key")["username"]
        own = [key for key in valid if key["username"] == username]
        found = [key for key in own if name in (key["name"], key["last_four"])]
    if not found:
        raise Failure(f"You have no key {name}: see `portal keys list`.", ExitCode.NOT_FOUND)
    if len(found) > 1:
        ids = ", ".join(str(key["id"]) for key in found)
        raise Failure(f"Several keys are {name}: give the id, of {ids}.", ExitCode.USAGE)
    return found[0]
