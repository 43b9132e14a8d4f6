"""The portal's pages in a real Chromium, against a whole portal with stand-in engines."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import DESKTOP, PHONE
from tests.browser.pages_portal import running, visiting
from tests.journeys.portal_process import ADMIN_PASSWORD, PortalProcess

SLOW, BROKEN = "acme/slow-to-load", "acme/will-not-start"
ONE_PAGE_BYTES = 150_000


@pytest.fixture(scope="module")
def portal(tmp_path_factory) -> Iterator[PortalProcess]:
    with running(tmp_path_factory.mktemp("portal")) as portal:
        yield portal


@pytest.fixture
def visit(chromium, portal):
    """visit(**options of a browser's context): a Visit; what went wrong on its pages fails the test."""
    with visiting(chromium, portal) as visit:
        yield visit


@pytest.fixture(scope="module")
def alice(portal) -> str:
    portal.admin().add_user("alice", "correct horse")
    return "alice"


@pytest.fixture
def engine(portal, alice):
    """start(model): an engine of alice's, and its id; it is READY."""
    made = []

    def start(model: str) -> str:
        session = portal.log_in(alice, "correct horse")
        made.append((session, session.post("/vllm_request/start", Model=model).json()["engine_id"]))
        return made[-1][1]

    yield start
    for session, engine_id in made:
        session.post("/vllm_request/terminate", container_id=engine_id)


def test_the_log_is_followed_searched_and_fetched(visit, engine):
    engine_id = engine("acme/with-a-log")
    page = visit().log_in("alice", "correct horse").page
    page.goto(f"/engine/{engine_id}")
    page.wait_for_selector("#log-text > span")
    lines = page.locator("#log-text > span").count()
    assert lines > 3
    page.fill("#log-search", "RESOLVED architecture")
    assert 0 < page.locator("#log-text > span:visible").count() < lines
    assert re.fullmatch(r"\d+ of \d+ lines", page.inner_text("#log-note"))
    with page.expect_download() as download:
        page.click("text=Download")
    assert download.value.suggested_filename.startswith("with-a-log-")


def test_the_form_writes_the_same_order_for_a_terminal(visit, alice):
    page = visit().log_in("alice", "correct horse").page
    page.goto("/engine/new")
    with page.expect_response("**/engine/fit") as asked:
        page.fill("#model", "acme/it's")
        page.fill("#max_model_len", "512")
        page.fill("#hugging_face_hub_token", "hf_secret")
        page.check("[name=shared]")
    assert "hf_secret" not in page.inner_text(".commands")
    words = "portal launch 'acme/it'\\''s' --max-model-len 512 --shared --hf-token -"
    assert page.inner_text("#as-portal") == words
    assert '"max_model_len":512' in page.inner_text("#as-curl")
    page.wait_for_selector("#verdict .fits")
    assert asked.value.status == 200
    assert "model" in page.inner_text("#verdict"), "it is no name of a model"


def test_without_scripts_everything_can_be_done(visit, engine):
    engine("acme/plain")
    page = visit(java_script_enabled=False).log_in("alice", "correct horse").page
    page.click(".card >> text=Stop")
    assert "is being stopped" in page.inner_text("[role=status]")
    page.click("text=Start an engine")
    page.fill("#model", "acme/plain")
    page.click("text=Start the engine")
    assert "plain-" in page.inner_text("h1")
    page.click("text=Stop")


def test_the_theme_is_the_systems_until_one_is_chosen_and_then_stays(visit, alice):
    one = visit(color_scheme="dark")
    page = one.page
    ground = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    page.goto("/")
    dark = ground()
    page.click("[data-theme-switch]")
    light = ground()
    assert light != dark
    page.goto("/login")
    assert ground() == light
    assert page.get_attribute("html", "data-theme") == "light"
    page.click("[data-theme-switch]")
    page.goto("/")
    assert (ground(), page.get_attribute("html", "data-theme")) == (dark, None)


def test_the_keyboard_reaches_the_content_and_the_form(visit, alice):
    page = visit().log_in("alice", "correct horse").page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_the_first_page_is_small_and_its_second_time_smaller(visit, alice):
    """As served, whole: the page itself and all that it loads."""
    one = visit()
    one.log_in("alice", "correct horse")
    took = lambda size: one.page.evaluate(  # noqa: E731
        "(size) => ['navigation', 'resource'].flatMap((kind) => performance.getEntriesByType(kind))"
        ".reduce((sum, entry) => sum + entry[size], 0)",
        size,
    )
    assert 5_000 < took("encodedBodySize") < ONE_PAGE_BYTES
    one.page.goto("/keys")
    one.page.goto("/")
    assert took("transferSize") < 15_000


def test_a_link_to_what_is_folded_opens_it(visit, engine):
    engine("acme/lent")
    page = visit().log_in("alice", "correct horse").page
    page.click(".card >> text=Share")
    page.wait_for_selector("#shared_users")
    assert page.is_visible("#shared_users")
    page.fill("#shared_users", "nobody-of-that-name")
    page.click("#share button")
    assert "no user nobody-of-that-name" in page.inner_text("[role=status]")


PAGES = [
    "/", "/engine/{id}", "/engine/new", "/engine/new?again={id}", "/playground", "/keys", "/usage", "/usage?days=365",
    "/password",
]  # fmt: skip
OF_ADMINS = [
    "/usage?whose=mine", "/welcome", "/admin/", "/admin/settings/", "/admin/cached-models/", "/admin/password_change/",
    "/admin/accounts/user/import/", "/admin/accounts/user/1/password/", "/admin/accounts/user/1/history/",
    "/admin/engines/engine/{id}/change/",
]  # fmt: skip
TABLES = [
    "admin/logentry", "accounts/user", "accounts/apikey", "auth/group", "engines/engine", "engines/gpu",
    "engines/gpulease", "engines/startmeasure", "inference/modelalias", "inference/conversation",
    "inference/usagerecord", "inference/auditrun",
]  # fmt: skip
OF_TABLES = [f"/admin/{table}/" for table in TABLES] + [
    f"/admin/{table}/add/" for table in ("accounts/user", "accounts/apikey", "auth/group", "inference/modelalias")
] + ["/admin/accounts/user/1/change/", "/admin/accounts/user/2/delete/"]  # fmt: skip
OF_THE_API = ["/active_models/", "/api/v1/engines", "/api/v1/users", "/api/docs"]
DRAWN = ("/admin", "/api/docs")
"""Pages that scripts of packages draw, or change, once they are there."""


def wrong_on(one, axe: str, paths: list[str], **names: str) -> dict[str, tuple[list[str], int, float]]:
    """By page: serious findings of axe-core, how much wider it is than the window, how much of it moved. Only those
    where something is wrong."""
    found = {}
    for path in paths:
        one.page.goto(path.format(**names), wait_until="networkidle" if path.startswith(DRAWN) else "load")
        found[path] = (one.findings(axe), max(0, one.overflow()), round(one.shifts(), 2))
    return {path: what for path, what in found.items() if what != ([], 0, 0)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_each_page_is_sound_for_everybody(visit, portal, engine, axe, size, scheme):
    """No serious finding of axe-core, nothing wider than the window, nothing that moves, nothing in the console."""
    engine_id = engine("acme/looked-at")
    session = portal.log_in("alice", "correct horse")
    session.post("/v1/chat/completions", model="acme/looked-at", messages=[{"role": "user", "content": "Hello"}])
    one = visit(viewport=size, color_scheme=scheme)
    assert wrong_on(one, axe, ["/", "/login"]) == {}
    one.log_in("alice", "correct horse")
    assert wrong_on(one, axe, PAGES, id=engine_id) == {}


@pytest.mark.parametrize(("scheme", "size"), [("light", DESKTOP), ("dark", PHONE)], ids=["light-desktop", "dark-phone"])
def test_each_page_of_admins_is_sound_too(visit, engine, axe, scheme, size):
    engine_id = engine("acme/looked-at")
    one = visit(viewport=size, color_scheme=scheme).log_in("admin", ADMIN_PASSWORD)
    assert wrong_on(one, axe, [*OF_ADMINS, *OF_TABLES, *OF_THE_API], id=engine_id) == {}


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


def test_the_menus_of_the_admin_run_under_its_policy(visit, engine):
    """Its search, its colours, its actions: what Alpine, htmx and Select2 do, without inline code."""
    engine("acme/searched-for")
    page = visit().log_in("admin", ADMIN_PASSWORD).page
    page.goto("/admin/", wait_until="networkidle")
    page.keyboard.press("Control+k")
    page.keyboard.type("searched-for")
    page.wait_for_selector("#command-results-list a[href*='/admin/engines/engine/']")
    page.goto("/admin/engines/engine/", wait_until="networkidle")
    page.check("#action-toggle")
    page.select_option("select[name=action]", "stop")
    page.click("button[name=index]")
    page.wait_for_selector("text=asked to stop")
    page.goto("/admin/accounts/apikey/add/", wait_until="networkidle")
    page.click(".select2-selection")
    page.keyboard.type("ali")
    page.click(".select2-results__option >> text=alice")
    assert page.inner_text(".select2-selection__rendered").endswith("alice")


def test_what_was_used_is_shown_and_fetched_as_a_table(visit, portal, engine):
    engine("acme/used")
    session = portal.log_in("alice", "correct horse")
    session.post("/v1/chat/completions", model="acme/used", messages=[{"role": "user", "content": "Hello"}])
    portal.wait_for(lambda: portal.database_rows("select 1 from inference_usagerollup"), 10, "the sums")
    page = visit().log_in("alice", "correct horse").page
    page.goto("/usage")
    assert "acme/used" in page.inner_text("section[aria-labelledby=by-model]")
    with page.expect_download() as download:
        page.click("section[aria-labelledby=by-model] >> text=This as CSV")
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("group,requests,")
    assert any(line.startswith("acme/used,1,") for line in lines)
