"""The admin's pages in a browser."""

from tests.browser.chromium import PHONE
from tests.browser.pages_portal import alice, engine, portal, visit
from tests.journeys.portal_process import ADMIN_PASSWORD

__all__ = ["alice", "engine", "portal", "visit"]


def test_the_menus_of_the_admin_run_under_its_policy(visit, engine):
    """Its search, its colours, its actions: what Alpine, htmx and Select2 do, without inline code."""
    engine("acme/searched-for")
    page = visit().log_in("admin", ADMIN_PASSWORD).page
    page.goto("/admin/", wait_until="networkidle")
    page.keyboard.press("Control+k")
    page.locator("#search-input-command").press_sequentially("searched-for")
    page.wait_for_selector("#command-results-list a[href*='/admin/engines/engine/']")
    page.goto("/admin/engines/engine/", wait_until="networkidle")
    page.check("#action-toggle")
    page.select_option("select[name=action]", "stop")
    page.click("button[name=index]")
    page.wait_for_selector("text=Asked 1 engine to stop.")
    page.goto("/admin/accounts/apikey/add/", wait_until="networkidle")
    page.click(".select2-selection")
    page.keyboard.type("ali")
    page.click(".select2-results__option >> text=alice")
    assert page.inner_text(".select2-selection__rendered").endswith("alice")


def test_users_come_from_a_table_after_a_look_at_it(visit, alice):
    page = visit().log_in("admin", ADMIN_PASSWORD).page
    page.goto("/admin/accounts/user/import/", wait_until="networkidle")
    table = b"username,role,prompt_token_limit\ncarla,user,5000\ndan,boss,1\n"
    page.set_input_files("#file", files=[{"name": "people.csv", "mimeType": "text/csv", "buffer": table}])
    page.click("text=Look at it")
    assert "dan: role 'boss' is no role" in page.inner_text("#main")
    assert "prompt_token_limit 5000" in page.inner_text("#main")
    assert "Nothing has been done yet" in page.inner_text("#main")
    page.click("text=Make the users without problems")
    link = page.inner_text("td code")
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "the link breaks"
    stranger = visit().page
    stranger.goto(link)
    for field in ("new_password1", "new_password2"):
        stranger.fill(f"[name={field}]", "a good password")
    stranger.click("main button")
    visit().log_in("carla", "a good password")


def test_limits_are_raised_and_who_is_cut_off_has_no_engine(visit, portal, engine):
    """From the list of users; the log says who did it."""
    engine("acme/of-alice")
    portal.admin().add_user("erin", "correct horse")
    erins = portal.log_in("erin", "correct horse").post("/vllm_request/start", Model="acme/of-erin").json()["engine_id"]
    page = visit().log_in("admin", ADMIN_PASSWORD).page

    def act(action: str) -> None:
        page.goto("/admin/accounts/user/", wait_until="networkidle")
        page.check("tr:has-text('erin') input[type=checkbox]")
        page.select_option("select[name=action]", action)
        page.click("button[name=index]")

    act("raise_limits")
    page.fill("[name=generated]", "500")
    page.click("text=Raise them")
    page.wait_for_selector("tr:has-text('erin') >> text=0 of 1,500")
    act("cut_off")
    page.wait_for_selector("text=Asked 1 engine to stop.")
    state = lambda: portal.admin().get(f"/api/v1/engines/{erins}").json()["state"]  # noqa: E731
    portal.wait_for(lambda: state() == "STOPPED", 20, "the engine to stop")
    page.goto("/admin/admin/logentry/", wait_until="networkidle")
    log = page.inner_text("#result_list")
    assert "token limits raised by 0 and 500" in log
    assert "stopped, as its owner was cut off" in log
