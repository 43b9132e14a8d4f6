"""Pages on a phone."""

from tests.browser.chromium import PHONE
from tests.browser.pages_portal import alice, engine, portal, visit
from tests.journeys.portal_process import ADMIN_PASSWORD

__all__ = ["alice", "engine", "portal", "visit"]


def test_on_a_phone_the_playground_fits_the_window(visit, alice):
    page = visit(viewport=PHONE).log_in("alice", "correct horse").page
    page.goto("/playground")
    page.wait_for_selector("[data-ready]", state="attached")
    assert page.evaluate("document.documentElement.scrollHeight") <= PHONE["height"]


def test_on_a_phone_the_menu_is_behind_a_button_that_the_keyboard_opens(visit, alice, axe):
    one = visit(viewport=PHONE).log_in("alice", "correct horse")
    page = one.page
    assert page.locator("header").bounding_box()["height"] < 80, "one line"
    assert not page.is_visible("nav")
    page.focus("button.menu")
    page.keyboard.press("Enter")
    assert page.is_visible("nav >> text=Recipes")
    assert one.findings(axe) == []
    page.keyboard.press("Escape")
    assert not page.is_visible("nav")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Start an engine"
    page.click("nav >> text=Usage")
    page.wait_for_url("**/usage")
    assert page.is_visible("text=90 days"), "another menu stays"
    assert visit().log_in("alice", "correct horse").page.is_visible("nav >> text=Recipes"), "without a button"


def test_on_a_phone_a_key_is_seen_whole_and_revoked(visit, alice):
    page = visit(viewport=PHONE).log_in("alice", "correct horse").page
    page.goto("/keys")
    page.fill("[name=name]", "of a phone")
    page.click("text=Make the key")
    row = page.locator(".keys tr:has-text('of a phone')")
    assert page.evaluate(
        "() => document.querySelector('.wide').scrollWidth <= document.querySelector('.wide').clientWidth"
    )
    row.locator("summary").click()
    row.locator("button").click()
    page.wait_for_selector(".keys tr:has-text('of a phone') >> text=revoked")
    assert "of a phone is revoked" in page.inner_text("[role=status]")
    assert page.is_visible("#clear-key"), "only the table was put in its place anew"


def test_on_a_phone_no_cell_of_the_admins_tables_is_cut(visit, engine):
    engine("sentence-transformers/paraphrase-multilingual-mpnet-base-v2-of-a-long-name")
    page = visit(viewport=PHONE).log_in("admin", ADMIN_PASSWORD).page
    cut = """() => [...document.querySelectorAll("#result_list :is(td, th)")]
      .filter((cell) => cell.scrollHeight > cell.clientHeight + 1 || cell.scrollWidth > cell.clientWidth + 1)
      .map((cell) => cell.dataset.label)"""
    for table in ("accounts/user", "engines/engine"):
        page.goto(f"/admin/{table}/", wait_until="networkidle")
        assert page.evaluate(cut) == [], table
