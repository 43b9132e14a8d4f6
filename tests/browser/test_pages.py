"""The portal's pages in a real Chromium, against a whole portal with stand-in engines."""

import re
from collections.abc import Iterator

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


def test_a_recipe_is_kept_chosen_and_started(visit, engine):
    engine_id = engine("acme/to-be-kept")
    page = visit().log_in("alice", "correct horse").page
    page.goto(f"/engine/{engine_id}")
    page.click("summary >> text=Keep it as a recipe")
    page.fill("#recipe-name", "my exam")
    page.click("text=Keep it >> nth=-1")
    assert "my exam" in page.inner_text("[role=status]")
    page.click(".card:has-text('my exam') a.button")
    assert page.input_value("#model") == "acme/to-be-kept"
    assert page.inner_text("#as-portal") == "portal launch --recipe 'my exam'"
    page.fill("#lease_hours", "2")
    assert page.inner_text("#as-portal") == "portal launch --recipe 'my exam' --lease-hours 2"
    assert "/start -H" in page.inner_text("#as-curl")
    assert page.inner_text("#as-curl").endswith("""-d '{"lease_hours":2}'""")
    page.fill("#seed", "7")
    page.fill("#adapters", "sql=acme/sql@v1\nmine=/models/a@b")
    words = "portal launch acme/to-be-kept --tensor-parallel-size 1 --seed 7 --lease-hours 2"
    assert page.inner_text("#as-portal") == f"{words} --adapter 'sql=acme/sql@v1' --adapter 'mine=/models/a@b'"
    assert '{"name":"sql","model":"acme/sql","revision":"v1"},{"name":"mine","model":"/models/a@b"}' in page.inner_text(
        "#as-curl"
    )
    page.fill("#seed", "")
    page.fill("#adapters", "")
    page.click("text=Start the engine")
    assert "my exam" in page.inner_text(".facts")
    page.click("text=Stop")


def test_names_are_completed_and_a_recipe_is_chosen_by_the_keyboard(visit, portal, engine):
    engine_id = engine("acme/completed")
    portal.log_in("alice", "correct horse").post("/api/v1/recipes", name="chosen", engine=engine_id)
    page = visit(java_script_enabled=False).log_in("alice", "correct horse").page
    page.goto("/engine/new")
    assert page.locator("#models option[value='acme/completed']").count() == 1
    page.focus("#recipe")
    page.keyboard.type("chosen")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/engine/new?recipe=*")
    assert page.input_value("#model") == "acme/completed"


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
    one = visit()
    one.log_in("alice", "correct horse")
    sizes = one.page.evaluate(
        "() => ['navigation', 'resource'].flatMap((kind) => performance.getEntriesByType(kind))"
        ".map((entry) => entry.encodedBodySize)"
    )
    assert 5_000 < sum(sizes) < ONE_PAGE_BYTES


PAGES = [
    "/",
    "/engine/new",
    "/engine/new?recipe=looked+at",
    "/recipes",
    "{engine}",
    "/keys",
    "/password",
    "/welcome",
    "/login",
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_each_page_is_sound_for_everybody(visit, portal, engine, axe, size, scheme):
    """No serious finding of axe-core, nothing wider than the window, nothing that moves, nothing in the console."""
    engine_id = engine("acme/looked-at")
    portal.admin().post("/api/v1/recipes", name="looked at", engine=engine_id, notes="Of 1 GPU.", published=True)
    one = visit(viewport=size, color_scheme=scheme)
    wrong = {}
    for path in ("/", "/login"):
        one.page.goto(path)
        wrong[f"{path} logged out"] = (one.findings(axe), one.overflow() > 0, one.shifts() > 0.01)
    one.log_in("admin", ADMIN_PASSWORD)
    for path in PAGES[:-1]:
        one.page.goto(path.format(engine=f"/engine/{engine_id}"))
        wrong[path] = (one.findings(axe), one.overflow() > 0, one.shifts() > 0.01)
    assert {path: found for path, found in wrong.items() if found != ([], False, False)} == {}


def test_pages_of_packages_run_under_their_policy(visit):
    """The admin, Swagger UI, which draws the schema, and the browsable API."""
    page = visit().log_in("admin", ADMIN_PASSWORD).page
    page.goto("/admin/accounts/user/", wait_until="networkidle")
    page.goto("/active_models/", wait_until="networkidle")
    page.goto("/api/docs")
    page.wait_for_selector(".opblock")
