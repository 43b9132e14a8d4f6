"""`recipes`: starts that can be made again exactly. `portal launch --recipe` makes them."""

from argparse import Namespace
from typing import Any

from portal_cli import engines
from portal_cli.credentials import find
from portal_cli.failures import ExitCode, Failure
from portal_cli.portal import Portal, part
from portal_cli.screen import Screen

PATH = "/api/v1/recipes"

Recipe = dict[str, Any]


def recipes_list(given: Namespace, screen: Screen) -> None:
    shown = list(Portal(find(given)).pages(PATH))
    if not shown:
        screen.note("There are no recipes: `portal recipes save NAME ENGINE` makes one.")
    columns = ("NAME", "MODEL", "OWNER", "READY AFTER", "TOKENS/S", "KV CACHE", "NOTES")
    screen.table(columns, [_row(recipe) for recipe in shown], shown)
    for recipe in shown:
        for warning in recipe["warnings"]:
            screen.note(f"{recipe['name']}: {warning}")


def _row(recipe: Recipe) -> tuple[object, ...]:
    measured = recipe["measured"]
    ready, cache = measured["load_s"], measured["kv_cache_tokens"]
    name = recipe["name"] + (" (published)" if recipe["published"] else "")
    return (
        name, recipe["model"], recipe["owner"], None if ready is None else f"{ready:.0f} s", measured["tokens_per_s"],
        cache, recipe["notes"],
    )  # fmt: skip


def recipes_save(given: Namespace, screen: Screen) -> None:
    portal = Portal(find(given))
    wish = {"name": given.name, "engine": engines.named(portal, given.engine)["id"]}
    if given.notes:
        wish["notes"] = given.notes
    if given.publish:
        wish["published"] = True
    made = portal.ask("POST", PATH, json=wish)
    if screen.as_json:
        return screen.data(made)
    screen.text(made["name"])
    for warning in made["warnings"]:
        screen.note(f"Warning: {warning}")


def recipes_rm(given: Namespace, screen: Screen) -> None:
    portal = Portal(find(given))
    recipe = named(portal, given.name)
    portal.ask("DELETE", f"{PATH}/{part(str(recipe['id']))}")
    if screen.as_json:
        return screen.data(recipe)
    screen.text(f"{recipe['name']} deleted")


def named(portal: Portal, name: str) -> Recipe:
    """By its id or its name; one's own before a published one. Raises Failure."""
    if name.isdecimal() and name.isascii():
        return portal.ask("GET", f"{PATH}/{part(name)}")
    found = [recipe for recipe in portal.pages(PATH) if recipe["name"] == name]
    if not found:
        raise Failure(f"There is no recipe {name}: see `portal recipes`.", ExitCode.NOT_FOUND)
    if len(found) == 1:
        return found[0]
    me = portal.ask("GET", "/api/v1/users/me")["username"]
    for mine in (lambda recipe: recipe["owner"] == me, lambda recipe: recipe["published"]):
        if chosen := [recipe for recipe in found if mine(recipe)]:
            return chosen[0]
    which = ", ".join(f"{recipe['id']} of {recipe['owner']}" for recipe in found)
    raise Failure(f"There are several recipes {name}: say which one by its id, of {which}.", ExitCode.USAGE)
