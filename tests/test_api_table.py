"""docs/api.md lists each of Django's endpoints with its methods, and nothing that is not there."""

import re

from django.urls import URLPattern, URLResolver, get_resolver, reverse

from vllm_portal.config import PROJECT_ROOT

PAGES = {"/", "/login", "/logout"}
NOT_DJANGOS = ("/v1/", "/chat/completions", "/engines/")
VERBS = {"get", "post", "put", "patch", "delete"}


def documented() -> set[tuple[str, str]]:
    found = set()
    for line in (PROJECT_ROOT / "docs" / "api.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")][1:-1]
        if len(cells) == 6 and cells[1].startswith("`/"):
            paths = re.findall(r"`([^`]+)`", cells[1])
            found |= {(verb, path.rstrip("/")) for verb in cells[0].lower().split(", ") for path in paths}
    return {(verb, path) for verb, path in found if not path.startswith(NOT_DJANGOS)}


def patterns(resolver: URLResolver):
    for entry in resolver.url_patterns:
        if isinstance(entry, URLPattern):
            yield entry
        elif entry.namespace != "admin":
            yield from patterns(entry)


def routed() -> set[tuple[str, str]]:
    found = set()
    for pattern in patterns(get_resolver()):
        if pattern.name == "static":
            continue
        path = str(pattern.pattern).removeprefix("^").removesuffix(r"/?\Z")
        path = re.sub(r"\(\?P(<\w+>)[^)]*\)", r"\1", path)
        view = getattr(pattern.callback, "cls", None)
        verbs = {verb for verb in VERBS if hasattr(view, verb)} if view else {"get"}
        found |= {(verb, f"/{path}") for verb in verbs}
    return {(verb, path) for verb, path in found if path not in PAGES}


def test_the_table_is_what_django_routes():
    assert documented() == routed()


def test_reading_either_side_finds_something():
    assert ("post", "/token") in documented() & routed()
    assert ("put", "/db_request/disable_user") in documented() & routed()
    assert reverse("token") == "/token"
