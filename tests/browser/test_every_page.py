"""Every page in a real Chromium, light and dark, on desktop and phone: what must be true of each."""

import re

import pytest

from tests.browser.chromium import DESKTOP, PHONE
from tests.browser.pages_portal import alice, engine, portal, visit
from tests.journeys.portal_process import ADMIN_PASSWORD

__all__ = ["alice", "engine", "portal", "visit"]

PAGES = [
    "/", "/engine/{id}", "/engine/new", "/engine/new?again={id}", "/engine/new?recipe=looked+at", "/recipes",
    "/playground", "/keys", "/usage", "/usage?days=365",
    "/password",
]  # fmt: skip
OF_ADMINS = [
    "/usage?whose=mine", "/welcome", "/admin/", "/admin/settings/", "/admin/cached-models/", "/admin/password_change/",
    "/admin/accounts/user/import/", "/admin/accounts/user/1/password/", "/admin/accounts/user/1/history/",
    "/admin/engines/engine/{id}/change/", "/admin/engines/recipe/{recipe}/change/",
]  # fmt: skip
TABLES = [
    "admin/logentry", "accounts/user", "accounts/apikey", "auth/group", "engines/engine", "engines/gpu",
    "engines/gpulease", "engines/recipe", "engines/startmeasure", "inference/modelalias", "inference/conversation",
    "inference/usagerecord", "inference/auditrun",
]  # fmt: skip
OF_TABLES = [f"/admin/{table}/" for table in TABLES] + [
    f"/admin/{table}/add/" for table in ("accounts/user", "accounts/apikey", "auth/group", "inference/modelalias")
] + ["/admin/accounts/user/1/change/", "/admin/accounts/user/2/delete/"]  # fmt: skip
OF_THE_API = ["/active_models/", "/api/v1/engines", "/api/v1/users", "/api/docs"]
DRAWN = ("/admin", "/api/docs")
"""Pages that scripts of packages draw, or change, once they are there."""


def wrong_on(one, axe: str, paths: list[str], **names: str) -> dict[str, tuple[list[str], int, float]]:
    """By page: serious findings of axe-core and what a template should not have shown, how much wider it is than the
    window, how much of it moved. Only those where something is wrong."""
    found = {}
    for path in paths:
        one.page.goto(path.format(**names), wait_until="networkidle" if path.startswith(DRAWN) else "load")
        unwritten = re.findall(r"\{[#%{][^\n]*", one.page.inner_text("body"))
        found[path] = (one.findings(axe) + unwritten, max(0, one.overflow()), round(one.shifts(), 2))
    return {path: what for path, what in found.items() if what != ([], 0, 0)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_each_page_is_sound_for_everybody(visit, portal, engine, axe, size, scheme):
    """No serious finding of axe-core, nothing wider than the window, nothing that moves, nothing in the console."""
    engine_id = engine("acme/looked-at")
    session = portal.log_in("alice", "correct horse")
    session.post("/v1/chat/completions", model="acme/looked-at", messages=[{"role": "user", "content": "Hello"}])
    session.post("/api/v1/recipes", name="looked at", engine=engine_id, notes="Of 1 GPU.")
    one = visit(viewport=size, color_scheme=scheme)
    assert wrong_on(one, axe, ["/", "/login", "/admin/login/"]) == {}
    one.log_in("alice", "correct horse")
    assert wrong_on(one, axe, PAGES, id=engine_id) == {}


@pytest.mark.parametrize(("scheme", "size"), [("light", DESKTOP), ("dark", PHONE)], ids=["light-desktop", "dark-phone"])
def test_each_page_of_admins_is_sound_too(visit, portal, engine, axe, scheme, size):
    engine_id = engine("acme/looked-at")
    made = portal.log_in("alice", "correct horse").post("/api/v1/recipes", name=f"in {scheme}", engine=engine_id)
    one = visit(viewport=size, color_scheme=scheme).log_in("admin", ADMIN_PASSWORD)
    assert wrong_on(one, axe, [*OF_ADMINS, *OF_TABLES, *OF_THE_API], id=engine_id, recipe=made.json()["id"]) == {}


@pytest.mark.parametrize("path", ["/api/v1/engines", "/api/docs"])
def test_the_apis_own_pages_are_as_dark_as_the_portal(visit, alice, axe, path):
    """By the system or by choice; no part of them stays light."""
    one = visit(color_scheme="dark", viewport=PHONE).log_in("alice", "correct horse")
    ground = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
    bright = """() => [...document.querySelectorAll("body, body *")].filter((one) => {
      const [red, green, blue, alpha = 1] = getComputedStyle(one).backgroundColor.match(/[\\d.]+/g).map(Number);
      return one.checkVisibility() && one.offsetHeight > 60 && alpha && red + green + blue > 380;
    }).map((one) => one.className)"""

    def looked_at() -> tuple:
        one.page.goto(path, wait_until="networkidle")
        if path == "/api/docs":
            one.page.click(".opblock-post >> nth=0")
            one.page.wait_for_selector(".opblock-body .microlight")
        return one.page.evaluate("getComputedStyle(document.body).backgroundColor"), one.findings(axe)

    assert looked_at() == (ground, [])
    assert one.page.evaluate(bright) == []
    one.context.add_cookies([{"name": "theme", "value": "light", "url": one.url}])
    assert looked_at() == ("rgb(255, 255, 255)", [])
    assert one.page.evaluate(bright) != []


def test_each_field_of_the_admins_forms_has_an_edge(visit, alice):
    """Of one that is not made by unfold's widgets nothing is seen."""
    without = """() => [...document.querySelectorAll("form :is(input, textarea, select)")]
      .filter((one) => one.offsetWidth > 1 && !["checkbox", "submit", "file"].includes(one.type))
      .filter((one) => getComputedStyle(one).borderTopWidth === "0px").map((one) => one.name)"""
    page = visit().log_in("admin", ADMIN_PASSWORD).page
    for path in OF_TABLES:
        if path.endswith(("/add/", "/change/")):
            page.goto(path)
            assert page.evaluate(without) == [], path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_sound_in_states_that_pass_too(visit, portal, engine, axe, scheme):
    """An engine that failed and one that sleeps, a key just made, a form with a mistake, a dialog, a search."""
    for state, cause, advice, change in (
        ("FAILED", "There is not enough memory.", "Take less.", '{"max_model_len": 256}'),
        ("ASLEEP", "It had no request for 60 minutes.", "The next request wakes it.", None),
    ):
        ended = engine(f"acme/{state.lower()}")
        portal.log_in("alice", "correct horse").post("/vllm_request/terminate", container_id=ended)
        portal.change_rows(
            "update engines_engine set state = ?, desired = 'sleep', cause = ?, advice = ?, change = ? where id = ?",
            state, cause, advice, change, ended.replace("-", ""),
        )  # fmt: skip
    one = visit(color_scheme=scheme, viewport=PHONE).excuses("400").log_in("alice", "correct horse")
    assert wrong_on(one, axe, ["/"]) == {}
    assert one.page.is_visible("text=Start again with requests of up to 256 tokens")
    one.page.goto("/keys")
    one.page.fill("[name=name]", "notebook")
    one.page.click("text=Make the key")
    one.page.wait_for_selector("#clear-key")
    found = {"a key": one.findings(axe)}
    one.page.goto("/engine/new")
    one.page.fill("#model", "no such/model/name")
    one.page.click("text=Start the engine")
    found["a mistake"] = one.findings(axe)
    one.page.goto("/playground")
    one.page.click("[data-show-code]")
    found["a dialog"] = one.findings(axe)
    admin = visit(color_scheme=scheme).log_in("admin", ADMIN_PASSWORD)
    admin.page.goto("/admin/", wait_until="networkidle")
    admin.page.keyboard.press("Control+k")
    admin.page.locator("#search-input-command").press_sequentially("ali")
    admin.page.wait_for_selector("#command-results-list a")
    found["a search"] = admin.findings(axe)
    assert {state: findings for state, findings in found.items() if findings} == {}
