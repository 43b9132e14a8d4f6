"""`usage`: what was spent, and what may still be."""

from argparse import Namespace
from datetime import UTC, datetime, timedelta
from typing import Any

from portal_cli.credentials import find
from portal_cli.portal import Portal
from portal_cli.screen import Screen


def usage(given: Namespace, screen: Screen) -> None:
    portal = Portal(find(given))
    since = datetime.now(UTC) - timedelta(days=given.days)
    summary = portal.ask(
        "GET", "/api/v1/usage/summary", params={"group_by": given.by, "started_after": since.isoformat()}
    )
    groups: list[dict[str, Any]] = summary["results"]
    caller = portal.ask("GET", "/api/v1/key")
    if screen.as_json:
        return screen.data({"summary": groups, "key": caller})
    columns = ("group", "requests", "prompt_tokens", "cached_tokens", "generated_tokens")
    rows = [[group[column] for column in columns] for group in groups]
    screen.table((given.by.upper(), "REQUESTS", "PROMPT", "CACHED", "GENERATED"), rows, groups)
    screen.text("")
    rows = [(what.replace("_", " "), *numbers) for what, numbers in limits(caller)]
    screen.table(("LIMIT", "USED", "OF", "LEFT", "ANEW AT"), rows, caller)


def limits(caller: dict[str, Any]) -> list[tuple[str, tuple[object, ...]]]:
    """(what, (used, limit, remaining, when it begins anew)) of the user, then of the key."""
    found = []
    for whose, all_of in (("you", caller["limits"]), ("key", (caller["key"] or {}).get("limits"))):
        if not all_of:
            continue
        totals = [{"name": name, **all_of[name]} for name in ("prompt_tokens", "generated_tokens")]
        for one in (*totals, *all_of["rates"]):
            limit = "none" if one["limit"] is None else one["limit"]
            found.append((f"{whose}: {one['name']}", (one["used"], limit, one["remaining"], one.get("resets_at"))))
    return found
