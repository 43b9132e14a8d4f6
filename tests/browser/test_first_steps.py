"""The way of an admin through a portal that is new, in a real Chromium."""

import re

import pytest

from tests.browser.pages_portal import running, visiting
from tests.journeys.portal_process import ADMIN_PASSWORD


@pytest.fixture
def visit(chromium, tmp_path):
    with running(tmp_path) as portal, visiting(chromium, portal) as visit:
        yield visit


def test_an_admin_gets_from_the_first_login_to_an_engine_and_ends_it(visit):
    """Three clicks to an engine; its page follows it without being asked."""
    page = visit().log_in("admin", ADMIN_PASSWORD).page
    page.click("text=Three steps set it up")
    page.click("text=Start facebook/opt-125m")
    assert page.input_value("#model") == "facebook/opt-125m"
    page.click("text=Start the engine")
    page.wait_for_url(re.compile("/engine/[0-9a-f-]{36}$"))
    page.evaluate("window.stayed = true")
    page.wait_for_selector(".engine-LOADING")
    page.wait_for_selector(".engine-READY")
    assert page.evaluate("window.stayed"), "the page was not loaded anew"
    page.goto("/welcome")
    assert "add users" in page.inner_text("main")
    page.goto("/")
    page.wait_for_selector(".engine-READY")
    page.evaluate("window.stayed = true")
    page.click(".card >> text=Stop")
    page.wait_for_selector(".engine-STOPPED")
    assert "is being stopped" in page.inner_text("[role=status]")
    page.click("text=Start again")
    assert page.input_value("#model") == "facebook/opt-125m"
