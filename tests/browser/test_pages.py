"""The portal's pages in a real Chromium, against a whole portal with stand-in engines."""

import csv
import re
from pathlib import Path

import pytest

from tests.browser.chromium import PHONE
from tests.browser.pages_portal import alice, engine, portal, visit

__all__ = ["alice", "engine", "portal", "visit"]
ONE_PAGE_BYTES = 150_000


def reads(page, place: str, text: str) -> None:
    """Waits until the text stands there."""
    page.wait_for_function("([place, text]) => document.querySelector(place).innerText === text", arg=[place, text])


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


def test_a_log_that_grows_is_followed_and_searched_as_it_comes(visit, portal, alice):
    session = portal.log_in("alice", "correct horse")
    rising = session.post("/vllm_request/start", Model="acme/growing", wait=False).json()
    page = visit(viewport=PHONE).log_in("alice", "correct horse").page
    page.goto(f"/engine/{rising['engine_id']}")
    page.fill("#log-search", "info")
    log = "document.getElementById('log-text')"
    page.wait_for_selector("#log-text > span:not([hidden]) >> text=Application startup complete")
    assert page.locator("#log-text > span >> text=WARNING").count() > 0
    assert page.locator("#log-text > span:visible >> text=WARNING").count() == 0
    page.fill("#log-search", "")
    assert page.evaluate(f"{log}.scrollHeight - {log}.scrollTop - {log}.clientHeight") < 2, "its end is seen"
    page.uncheck("#log-follow")
    page.evaluate(f"{log}.scrollTop = 0")
    lines = page.locator("#log-text > span").count()
    session.post("/v1/chat/completions", model="acme/growing", messages=[{"role": "user", "content": "Hello"}])
    page.wait_for_function("n => document.querySelectorAll('#log-text > span').length > n", arg=lines)
    assert page.evaluate(f"{log}.scrollTop") == 0, "who reads is left alone"
    with page.expect_download() as download:
        page.click("text=Download")
    assert "Application startup complete" in Path(download.value.path()).read_text()
    session.post("/vllm_request/terminate", container_id=rising["container_id"])


def test_what_a_button_copies_is_what_stands_there(visit, alice):
    """Where scripts have no clipboard, as without https, too."""
    page = visit(permissions=["clipboard-read", "clipboard-write"]).log_in("alice", "correct horse").page
    page.goto("/keys")
    page.fill("[name=name]", "copied")
    page.click("text=Make the key")
    page.click("text=Copy the key")
    page.wait_for_selector("text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.inner_text("#clear-key")
    page.goto("/engine/new?model=acme/it's")
    page.evaluate("Object.defineProperty(navigator.clipboard, 'writeText', { value: () => Promise.reject() })")
    for number, place in enumerate(("#as-portal", "#as-curl")):
        page.click(f".commands button >> nth={number}")
        page.wait_for_selector(f".commands button >> nth={number} >> text=Copied")
        assert page.evaluate("navigator.clipboard.readText()") == page.inner_text(place)


def test_an_engine_is_started_with_adapters(visit, alice):
    page = visit().log_in("alice", "correct horse").page
    page.goto("/engine/new?model=acme/adapted")
    page.click("summary >> text=Advanced")
    page.fill("#adapters", "sql=acme/sql@v1")
    page.click("text=Start the engine")
    page.wait_for_selector(".engine-READY")
    assert 'model="acme/adapted:acme/sql"' in page.inner_text("#facts")
    page.goto("/")
    page.click(".card:has-text('acme/adapted') >> text=Stop")
    page.click(".card:has-text('acme/adapted') >> text=Start again")
    assert page.input_value("#adapters") == "sql=acme/sql@v1"
    assert page.is_visible("#adapters"), "what is filled in is not folded"


def test_the_form_writes_the_same_order_for_a_terminal(visit, alice):
    page = visit().log_in("alice", "correct horse").page
    page.goto("/engine/new")
    with page.expect_response("**/engine/fit") as asked:
        page.fill("#model", "acme/it's")
        page.fill("#max_model_len", "512")
        page.fill("#hugging_face_hub_token", "hf_secret")
        page.check("[name=shared]")
    reads(page, "#as-portal", """portal launch 'acme/it'"'"'s' --max-model-len 512 --shared --hf-token -""")
    assert '"max_model_len": 512' in page.inner_text("#as-curl")
    assert "hf_secret" not in page.inner_text(".commands")
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
    page.click("summary >> text=Advanced")
    page.fill("#lease_hours", "2")
    reads(page, "#as-portal", "portal launch --recipe 'my exam' --lease-hours 2")
    assert "/start -H" in page.inner_text("#as-curl")
    assert page.inner_text("#as-curl").endswith("""-d '{"lease_hours": 2}'""")
    page.fill("#seed", "7")
    page.fill("#adapters", "sql=acme/sql@v1\nmine=/models/a@b")
    words = "portal launch acme/to-be-kept --tensor-parallel-size 1 --seed 7 --lease-hours 2"
    reads(page, "#as-portal", f"{words} --adapter sql=acme/sql@v1 --adapter mine=/models/a@b")
    assert '"revision": "v1"' in page.inner_text("#as-curl")
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
    page.wait_for_selector("[role=status] >> text=no user nobody-of-that-name")
    assert page.input_value("#shared_users") == "nobody-of-that-name", "to be corrected"
    page.fill("#shared_users", "admin, ")
    page.eval_on_selector("#shared_users", "field => { field.style.width = '20rem'; }")  # as who resizes a field does
    page.click("summary >> text=Keep it as a recipe")
    page.fill("#recipe-name", "half a na")
    page.click("#share button")
    page.wait_for_selector("[role=status] >> text=Saved who may send requests")
    assert page.input_value("#shared_users") == "admin"
    assert "shared with admin" in page.inner_text("#facts")
    assert page.input_value("#recipe-name") == "half a na"
    assert page.evaluate("document.activeElement.id") == "save-share"


def test_an_engines_page_follows_its_start(visit, portal, alice):
    """Not only its state: the steps, too, with nothing loaded anew."""
    session = portal.log_in("alice", "correct horse")
    rising = session.post("/vllm_request/start", Model="acme/followed", wait=False).json()
    page = visit().log_in("alice", "correct horse").page
    page.goto(f"/engine/{rising['engine_id']}")
    page.evaluate("window.stayed = true")
    page.wait_for_selector("#steps li >> text=ready")
    assert "ready" in page.inner_text("#events")
    assert "the model's own" not in page.inner_text(".facts")
    assert page.evaluate("window.stayed")
    session.post("/vllm_request/terminate", container_id=rising["container_id"])


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
    with Path(download.value.path()).open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["group"] == "acme/used"]
    told = [row[name] for name in ("group", "requests", "prompt_tokens", "generated_tokens")]
    cells = page.locator("section[aria-labelledby=by-model] tr:has-text('acme/used') td")
    assert told == [text.replace(",", "") for text in cells.all_inner_texts()[:4]]
    assert download.value.suggested_filename == "usage-by-model.csv"


def test_cards_that_are_put_in_their_place_anew_leave_the_focus_where_it_is(visit, portal, engine):
    engine_id = engine("acme/focused")
    page = visit().log_in("alice", "correct horse").page
    page.focus(f"#share-{engine_id}")
    card = f"document.querySelector('[data-engine=\"{engine_id}\"]')"
    page.evaluate(f"{card}.marked = true")
    portal.change_rows("update engines_engine set shared = 1 where id = ?", engine_id.replace("-", ""))
    page.wait_for_selector(f"[data-engine='{engine_id}'] >> text=shared with all users")
    assert page.evaluate(f"{card}.marked") is None
    assert page.evaluate("document.activeElement.id") == f"share-{engine_id}"


@pytest.mark.parametrize("where", ["/", "/engine/{id}"])
def test_a_stream_that_is_over_is_connected_anew_without_a_word(visit, portal, engine, where):
    engine_id, streams = engine("acme/streamed"), []

    def first_is_over(route) -> None:
        streams.append(route)
        if len(streams) > 1:
            route.continue_()
        else:
            route.fulfill(content_type="text/event-stream", body="event: over\ndata:\n\n")

    page = visit().log_in("alice", "correct horse").page
    page.route("**/cards/events", first_is_over)
    with page.expect_request(lambda asked: asked.url.endswith("/cards/events") and len(streams) > 0):
        page.goto(where.format(id=engine_id))
    page.wait_for_timeout(1500)  # what changes before a stream's first look it does not tell
    portal.change_rows("update engines_engine set shared = 1 where id = ?", engine_id.replace("-", ""))
    place = f"[data-engine='{engine_id}']" if where == "/" else "#facts"
    page.wait_for_selector(f"{place} >> text=shared with all users", timeout=5_000)


def test_a_form_that_could_not_be_sent_in_the_background_is_sent_all_the_same(visit, engine):
    engine_id = engine("acme/far-away")
    one = visit().excuses("ERR_FAILED", "htmx:").log_in("alice", "correct horse")
    one.page.route(
        "**/stop", lambda route: route.abort() if "hx-request" in route.request.headers else route.continue_()
    )
    with one.page.expect_navigation():
        one.page.click(f"#stop-{engine_id}")
    assert "is being stopped" in one.page.inner_text("[role=status]")


def test_without_a_stream_of_events_the_page_asks(visit, portal, engine):
    """A proxy may hold the stream back for ever."""
    page = visit().log_in("alice", "correct horse").page
    page.route("**/cards/events", lambda route: None)
    page.goto("/")
    engine("acme/asked-for")
    page.wait_for_selector(".card >> text=acme/asked-for", timeout=20_000)


def test_whoever_is_logged_out_elsewhere_sees_it(visit, alice):
    """The page's stream of events, when it begins only now, is refused too: the console names an Event for that."""
    one = visit().excuses("401", "[object Event]").log_in("alice", "correct horse")
    one.context.clear_cookies()
    one.page.wait_for_selector("main >> text=Log in", timeout=20_000)


def test_a_failure_is_shown_where_messages_stand(visit, engine):
    """What no piece of the page can be made of is not passed over in silence."""
    engine_id = engine("acme/gone")
    one = visit().excuses("403").log_in("alice", "correct horse")
    one.page.eval_on_selector(f"#stop-{engine_id}", "button => button.form.csrfmiddlewaretoken.value = 'stale'")
    one.page.click(f"#stop-{engine_id}")
    one.page.wait_for_selector("[role=status] >> text=This form does not count any more")
    assert one.page.is_visible(".engine-READY")


def test_what_would_fit_is_filled_in_by_a_button(visit, alice):
    page = visit().log_in("alice", "correct horse").page
    page.route("**/engine/fit", lambda route: route.fulfill(
        content_type="text/html",
        body="<button data-fill='gpu_memory_utilization' data-with='0.5' type='button'>Do so</button>",
    ))  # fmt: skip
    page.goto("/engine/new")
    page.fill("#model", "acme/large")
    page.click("#verdict button")
    assert page.input_value("#gpu_memory_utilization") == "0.5"
    assert page.evaluate("document.activeElement.id") == "gpu_memory_utilization", "and is seen"
    reads(page, "#as-portal", "portal launch acme/large --gpu-memory-utilization 0.5")
