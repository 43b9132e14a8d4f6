"""docs/api.md lists each of Django's endpoints with its methods, and nothing that is not there."""

import re

from django.urls import URLPattern, URLResolver, get_resolver, reverse

from inference.openai import _PATHS
from vllm_portal.config import PROJECT_ROOT

PAGES = {
    "", "/login", "/logout", "/keys", "/keys/<id>/revoke", "/password", "/password/<id>/<id>", "/playground",
    "/playground/token", "/playground/conversations", "/playground/conversations/<id>/rename",
    "/playground/conversations/<id>/delete", "/usage", "/welcome", "/cards", "/cards/events", "/favicon.ico",
    "/engine/new", "/engine/fit", "/engine/lines",
    "/engine/<id>", "/engine/<id>/share", "/engine/<id>/keep", "/engine/<id>/wake", "/engine/<id>/stop",
    "/engine/<id>/recipe", "/recipes", "/recipes/<id>/delete",
}  # fmt: skip
VERBS = {"get", "post", "put", "patch", "delete"}


def rows() -> list[tuple[set[str], list[str]]]:
    """(verbs, paths) of each row."""
    found = []
    for line in (PROJECT_ROOT / "docs" / "api.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")][1:-1]
        if len(cells) == 6 and cells[1].startswith("`/"):
            paths = [uniform(path) for path in re.findall(r"`([^`]+)`", cells[1])]
            found.append((set(cells[0].lower().split(", ")), paths))
    return found


def uniform(path: str) -> str:
    return re.sub(r"<\w+>", "<id>", path.rstrip("/"))


def is_data_planes(path: str) -> bool:
    return path.startswith(("/engines/", "/v1/", "/v2/")) or path in _PATHS or path == "/responses/<id>"


def documented() -> set[tuple[str, str]]:
    return {(verb, path) for verbs, paths in rows() for verb in verbs for path in paths if not is_data_planes(path)}


def patterns(resolver: URLResolver, before: str = ""):
    for entry in resolver.url_patterns:
        path = before + str(entry.pattern).removeprefix("^")
        if isinstance(entry, URLPattern):
            yield path, entry
        elif entry.namespace != "admin":
            yield from patterns(entry, path)


def routed() -> set[tuple[str, str]]:
    found = set()
    for route, pattern in patterns(get_resolver()):
        if pattern.name == "static":
            continue
        path = uniform("/" + re.sub(r"\(\?P(<\w+>)[^)]*\)", r"\1", re.sub(r"/\?(\\Z|\$)\Z", "", route)))
        view = getattr(pattern.callback, "cls", None)
        actions = getattr(pattern.callback, "actions", None)
        verbs = set(actions) - {"head"} if actions else {v for v in VERBS if hasattr(view, v)} if view else {"get"}
        allowed = getattr(view, "http_method_names", verbs)
        found |= {(verb, path) for verb in verbs if verb in allowed}
    return {(verb, path) for verb, path in found if path not in PAGES}


def test_the_table_is_what_django_routes():
    assert documented() == routed()


def test_the_table_names_each_path_of_an_engine():
    named = {path for _, paths in rows() for path in paths if is_data_planes(path)}
    assert named - {"/engines/<id>/v1/…"} == {*_PATHS, "/v1/models/<id>", "/v1/responses/<id>", "/responses/<id>"}


def test_reading_either_side_finds_something():
    assert ("post", "/token") in documented() & routed()
    assert ("put", "/db_request/disable_user") in documented() & routed()
    assert reverse("token") == "/token"
