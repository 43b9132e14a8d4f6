"""The way of somebody who has never written curl: on a phone, in a real Chromium, to an answer of a real vLLM."""

import re
from collections.abc import Iterator

import pytest

from tests.browser.chromium import PHONE, launched
from tests.browser.pages_portal import visiting

ANSWERED = "() => document.querySelector('.turn') && !document.querySelector('.turn.busy')"
START_MS = 300_000


@pytest.fixture
def chromium() -> Iterator[object]:
    """Gone with its test: its event loop would be in the way of others'."""
    with launched() as browser:
        yield browser


def test_from_the_login_to_an_answer_of_an_engine_of_ones_own(chromium, real_portal, tiny_model, engine_image):
    portal = real_portal(launcher="docker", docker_image=engine_image).start()
    portal.admin().add_user("alice", "correct horse")
    with visiting(chromium, portal) as visit:
        page = visit(viewport=PHONE, has_touch=True, is_mobile=True).log_in("alice", "correct horse").page
        page.click("main >> text=Start an engine")
        page.fill("#model", str(tiny_model))
        page.fill("#max_model_len", "512")
        page.click("text=Start the engine")
        page.wait_for_url(re.compile("/engine/[0-9a-f-]{36}$"))
        page.wait_for_selector(".engine-LOADING", timeout=START_MS)
        page.wait_for_selector(".engine-READY", timeout=START_MS)
        page.click("text=Talk to it")
        page.wait_for_selector("[data-ready]", state="attached")
        page.fill("[data-prompt]", "Say something.")
        page.press("[data-prompt]", "Enter")
        page.wait_for_function(ANSWERED)
        prompt, generated = map(int, re.findall(r"\d+", page.inner_text(".stats").split("tokens")[0])[-2:])
        assert page.inner_text(".turn .answer").strip()
        written = "select prompt_tokens, generated_tokens, outcome from inference_usagerecord"
        portal.wait_for(lambda: portal.database_rows(written), 10, "the record")
        (record,) = portal.database_rows(written)
        assert record == {"prompt_tokens": prompt, "generated_tokens": generated, "outcome": "completed"}

        page.goto("/")
        page.wait_for_selector(".gauges >> text=0 running")
        page.click(".card >> text=Stop")
        page.wait_for_selector(".engine-STOPPED")
    assert portal.audit() == "all is as it must be\n"
