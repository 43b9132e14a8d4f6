"""The playground in a real Chromium: what one does there, against an engine that says what a test wants."""

import json

import pytest
from django.utils import timezone

from accounts import sessions
from accounts.models import LoginSession
from engines import hints
from engines.models import Engine
from inference import conversations
from inference.models import Conversation, UsageRecord
from tests.browser.playground_portal import asked, ready_engine, says
from tests.fakes.upstream import streamed, whole
from tests.inference.test_wakes import fall_asleep, knows_of_its_sleep, rises

BUSY = "!document.querySelector('.turn.busy')"


def ask(page, text: str) -> None:
    page.fill("[data-prompt]", text)
    page.press("[data-prompt]", "Enter")


def answered(page, count: int = 1) -> None:
    """Waits until so many turns stand there, and none is under way."""
    page.wait_for_function(f"n => document.querySelectorAll('.turn').length >= n && {BUSY}", arg=count)


def listed(page, count: int) -> list[str]:
    """The names in the side bar, once there are so many."""
    page.wait_for_function("n => document.querySelectorAll('[data-list] .open').length === n", arg=count)
    return page.eval_on_selector_all("[data-list] .open", "all => all.map((one) => one.textContent)")


@pytest.fixture
def kept(alice, eventually):
    """kept(turns, …): waits until what is stored of alice's conversations is this, in any order."""

    def said() -> list:
        return sorted(conversations.turns(one) for one in Conversation.objects.filter(user=alice))

    return lambda *expected: eventually(lambda: said() == sorted(expected))


@pytest.fixture
def eventually():
    from tests.inference.conftest import eventually as wait

    return wait.__wrapped__()


def test_an_answer_is_streamed_drawn_counted_and_kept(visit, alice, engine, raw_engine, kept):
    pieces = ["# Tit", "le\n\nSome **bo", "ld** text.\n\n```python\nx = 1", "\n```\n"]
    raw_engine.answer = says(*pieces)
    watched = visit(alice)
    page = watched.page
    ask(page, "Say *something*")
    answered(page)
    assert page.inner_text(".turn .said") == "Say *something*"
    assert page.inner_text(".answer h3") == "Title"
    assert page.inner_text(".answer strong") == "bold"
    assert page.inner_text(".code pre") == "x = 1"
    assert "tiny · 7 + 4 tokens · first after " in page.inner_text(".stats")
    assert listed(page, 1) == ["Say *something*"]
    kept([("Say *something*", "".join(pieces))])
    assert watched.wrong == []


def test_it_takes_the_way_of_every_request(visit, alice, engine, raw_engine, eventually):
    """The same admission and the same records."""
    raw_engine.answer = says("one ", "two")
    page = visit(alice).page
    ask(page, "Count")
    answered(page)
    from inference.usage import flush

    eventually(lambda: flush() or UsageRecord.objects.filter(user=alice, path="/v1/chat/completions").exists())
    record = UsageRecord.objects.get()
    assert (record.prompt_tokens, record.generated_tokens, record.api_key, record.exact) == (7, 2, None, True)


def test_what_was_set_is_sent_and_what_was_not_is_left_to_the_engine(visit, alice, engine, raw_engine):
    raw_engine.answer = says("fine")
    page = visit(alice).page
    ask(page, "first")
    answered(page)
    page.click("[data-options] summary")
    for name, value in {"system": "Be short.", "temperature": "0.3", "max_tokens": "9", "seed": "5"}.items():
        page.fill(f"[name={name}]", value)
    page.fill("[name=stop]", "END\n\\n\\n")
    ask(page, "second")
    answered(page, 2)
    first, second = asked(raw_engine)
    assert {"temperature", "top_p", "seed", "stop"} & set(first) == set()
    assert first["messages"] == [{"role": "user", "content": "first"}]
    assert (second["temperature"], second["max_tokens"], second["seed"]) == (0.3, 9, 5)
    assert second["stop"] == ["END", "\n\n"]
    assert "top_p" not in second
    assert second["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "fine"},
        {"role": "user", "content": "second"},
    ]


def test_a_setting_that_cannot_be_is_not_sent(visit, alice, engine, raw_engine):
    page = visit(alice).page
    page.click("[data-options] summary")
    page.fill("[name=temperature]", "7")
    ask(page, "hello")
    assert page.evaluate("document.querySelector('[name=temperature]').validity.rangeOverflow")
    assert page.locator(".turn").count() == 0
    assert asked(raw_engine) == []


def test_stop_ends_the_engines_work_and_keeps_what_there_is(visit, alice, engine, raw_engine, kept, eventually):
    raw_engine.answer = says("Half of", " it", until="for ever")
    watched = visit(alice)
    page = watched.page
    ask(page, "Tell me all")
    page.wait_for_function("() => document.querySelector('.answer > .text').textContent.includes('Half of it')")
    assert raw_engine.closed_early == 0
    page.click("[data-stop]")
    answered(page)
    eventually(lambda: raw_engine.closed_early == 1)
    assert "7 + 2 tokens" in page.inner_text(".stats")
    assert "stopped" in page.inner_text(".stats")
    assert page.is_visible("[data-send]")
    kept([("Tell me all", "Half of it")])
    assert watched.wrong == []


def test_regenerate_replaces_the_answer(visit, alice, engine, raw_engine, kept):
    raw_engine.answer = says("old")
    page = visit(alice).page
    ask(page, "Say")
    answered(page)
    raw_engine.answer = says("new")
    page.click("text=Regenerate")
    page.wait_for_function("() => document.querySelector('.answer > .text').textContent === 'new'")
    answered(page)
    kept([("Say", "new")])
    assert asked(raw_engine)[1]["messages"] == [{"role": "user", "content": "Say"}]


def test_a_regeneration_that_fails_leaves_the_old_answer(visit, alice, engine, raw_engine, kept):
    raw_engine.answer = says("old")
    page = visit(alice).page
    ask(page, "Say")
    answered(page)
    error = {"error": {"message": "The engine is ill.", "type": "InternalServerError", "code": 500}}
    raw_engine.answer = whole(json.dumps(error).encode(), 500)
    page.click("text=Regenerate")
    page.wait_for_selector("text=The engine is ill.")
    assert page.inner_text(".turn:not(.failed) .answer > .text") == "old"
    kept([("Say", "old")])


def test_an_edited_prompt_is_sent_again_and_what_came_after_goes(visit, alice, engine, raw_engine, kept):
    raw_engine.answer = says("yes")
    page = visit(alice).page
    for number, text in enumerate(["one", "two", "three"], 1):
        ask(page, text)
        answered(page, number)
    page.locator(".turn").nth(1).get_by_text("Edit").click()
    page.fill(".edit textarea", "zwei")
    page.press(".edit textarea", "Enter")
    page.wait_for_function(f"() => document.querySelectorAll('.turn').length === 2 && {BUSY}")
    assert [message["content"] for message in asked(raw_engine)[-1]["messages"]] == ["one", "yes", "zwei"]
    kept([("one", "yes"), ("zwei", "yes")])


def test_a_kept_conversation_is_opened_and_goes_on(visit, alice, engine, raw_engine, kept):
    talk = conversations.start(alice, timezone.now())
    conversations.add_turn(talk, "Who?", "Me.", timezone.now())
    raw_engine.answer = says("Still me.")
    page = visit(alice).page
    listed(page, 1)
    page.click("[data-list] .open")
    page.wait_for_selector(".turn")
    ask(page, "And now?")
    answered(page, 2)
    kept([("Who?", "Me."), ("And now?", "Still me.")])


def test_what_went_on_elsewhere_is_not_overwritten(visit, alice, engine, raw_engine, kept):
    talk = conversations.start(alice, timezone.now())
    conversations.add_turn(talk, "Who?", "Me.", timezone.now())
    raw_engine.answer = says("lost")
    page = visit(alice).page
    listed(page, 1)
    page.click("[data-list] .open")
    page.wait_for_selector(".turn")
    conversations.add_turn(talk, "From another page?", "Yes.", timezone.now())
    ask(page, "And now?")
    page.wait_for_selector("text=This answer is not kept: The conversation has 2 turns by now, not 1")
    kept([("Who?", "Me."), ("From another page?", "Yes.")])


def test_conversations_are_searched_renamed_exported_and_deleted(visit, alice, bob, engine, raw_engine, tmp_path):
    for owner, prompt in ((alice, "About trees"), (alice, "About seas"), (bob, "Secret trees")):
        conversations.add_turn(conversations.start(owner, timezone.now()), prompt, "Yes.", timezone.now())
    watched = visit(alice)
    page = watched.page
    assert listed(page, 2) == ["About seas", "About trees"]
    page.fill("[name=search]", "tree")
    assert listed(page, 1) == ["About trees"]
    page.click(".menu > summary")
    with page.expect_download() as saved:
        page.click("text=Export as Markdown")
    saved.value.save_as(tmp_path / "talk.md")
    assert "## User\n\nAbout trees\n\n## Assistant\n\nYes." in (tmp_path / "talk.md").read_text()
    page.fill(".menu [name=name]", "Oaks and trees")
    page.press(".menu [name=name]", "Enter")
    page.wait_for_selector("[data-list] >> text=Oaks and trees")
    page.click("[data-open]")
    page.wait_for_selector(".turn")
    assert page.get_attribute("[data-open]", "aria-current") == "true"
    page.click(".menu > summary")
    page.click("text=Delete")
    assert Conversation.objects.filter(user=alice).count() == 2
    page.click("text=For good")
    page.wait_for_selector("text=None with this in its name.")
    page.wait_for_selector(".turn", state="detached")
    assert [one.shown_name for one in Conversation.objects.filter(user=alice)] == ["About seas"]
    assert watched.wrong == []


def test_the_side_bar_is_not_drawn_anew_under_who_renames(visit, alice, engine, raw_engine, kept):
    conversations.add_turn(conversations.start(alice, timezone.now()), "Who?", "Me.", timezone.now())
    raw_engine.answer = says("fine")
    page = visit(alice).page
    listed(page, 1)
    page.click(".menu > summary")
    page.fill(".menu [name=name]", "half a na")
    ask(page, "another")
    answered(page)
    kept([("Who?", "Me.")], [("another", "fine")])
    assert page.input_value(".menu [name=name]") == "half a na"
    page.press(".menu [name=name]", "Enter")
    assert listed(page, 2) == ["another", "half a na"]


def test_older_conversations_come_when_asked_for(visit, alice, engine):
    for number in range(31):
        conversations.start(alice, timezone.now(), f"number {number}")
    page = visit(alice).page
    assert listed(page, 30)[0] == "number 30"
    page.click("text=Older ones")
    assert listed(page, 31)[-1] == "number 0"
    assert not page.is_visible("text=Older ones")


def test_who_was_logged_out_is_told_and_loses_nothing(visit, alice, engine, raw_engine):
    raw_engine.answer = says("an answer")
    page = visit(alice).page
    ask(page, "a question")
    answered(page)
    page.context.clear_cookies()
    page.fill("[data-prompt]", "half a question")
    page.fill("[name=search]", "x")
    page.wait_for_selector("text=You are logged out.")
    assert page.input_value("[data-prompt]") == "half a question"
    assert page.inner_text(".answer > .text") == "an answer"


def test_two_side_by_side_get_the_same_prompt_and_a_conversation_each(visit, alice, engine, raw_engine, kept):
    ready_engine(alice, raw_engine.port, name="other", model="other")
    raw_engine.answer = says("first")
    page = visit(alice, "/playground?engine=other").page
    ask(page, "one")
    answered(page)
    page.click("[data-compare]")
    raw_engine.answer = says("second")
    ask(page, "two")
    answered(page, 4)
    assert [body["model"] for body in asked(raw_engine)][:1] == ["other"]
    assert {body["model"] for body in asked(raw_engine)[1:]} == {"other", engine.name}
    histories = [[message["content"] for message in body["messages"]] for body in asked(raw_engine)[1:]]
    assert histories == [["one", "first", "two"]] * 2
    kept(*[[("one", "first"), ("two", "second")]] * 2)
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-list] .open')].map((one) => one.textContent).join() === 'one,one'"
    )
    page.click("[data-compare]")
    assert page.locator(".pane").count() == 1


def test_a_model_without_a_chat_template_gets_a_transcript(visit, alice, portal, raw_engine, kept):
    ready_engine(alice, raw_engine.port, has_chat_template=False)
    events = [{"choices": [{"index": 0, "text": text}]} for text in (" Pa", "ris.")]
    events.append({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    data = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in events) + b"data: [DONE]\n\n"
    raw_engine.answer = streamed(data)
    page = visit(alice).page
    ask(page, "Capital?")
    answered(page)
    (body,) = asked(raw_engine)
    assert (body["prompt"], body["stop"]) == ("User: Capital?\nAssistant:", ["\nUser:"])
    kept([("Capital?", " Paris.")])


def test_thoughts_are_folded_away_and_not_sent_again(visit, alice, engine, raw_engine, kept):
    raw_engine.answer = says("<thi", "nk>Hm, ", "well.</thi", "nk>\n\nYes.")
    page = visit(alice).page
    ask(page, "Sure?")
    answered(page)
    assert page.inner_text(".answer > .text") == "Yes."
    assert page.text_content(".thoughts .text") == "Hm, well."
    assert not page.is_visible(".thoughts .text")
    kept([("Sure?", "Yes.")])


def test_a_history_too_long_for_the_context_loses_its_oldest_turns(visit, alice, engine, raw_engine):
    refusal = {"error": {"message": "This model's maximum context length is 5 tokens.", "type": "BadRequestError"}}

    async def answer(request, writer) -> None:
        short = len(request.json["messages"]) <= 3
        await (says("fine") if short else whole(json.dumps(refusal).encode(), 400))(request, writer)

    raw_engine.answer = answer
    page = visit(alice).page
    for number in range(1, 4):
        ask(page, f"prompt {number}")
        answered(page, number)
    assert [message["content"] for message in asked(raw_engine)[-1]["messages"]] == ["prompt 2", "fine", "prompt 3"]
    assert "without the 1 oldest turns" in page.locator(".stats").last.inner_text()


def test_a_refusal_is_said_and_the_prompt_comes_back(visit, alice, engine, raw_engine):
    from accounts import quotas

    quotas.set_limits(alice, generated=0)
    page = visit(alice).page
    ask(page, "Anything")
    page.wait_for_selector(".turn.failed .error:not(:empty)")
    assert "limit" in page.inner_text(".turn.failed .error")
    page.wait_for_function("() => document.querySelector('[data-prompt]').value === 'Anything'")
    assert Conversation.objects.count() == 0


def test_a_token_that_was_ended_is_renewed(visit, alice, engine, raw_engine):
    raw_engine.answer = says("fine")
    page = visit(alice).page
    ask(page, "one")
    answered(page)
    sessions.end(LoginSession.objects.get().pk)
    ask(page, "two")
    answered(page, 2)
    assert page.locator(".turn.failed").count() == 0
    assert LoginSession.objects.filter(ended_at=None).count() == 1


def test_one_who_is_logged_out_is_told(visit, alice, engine, raw_engine):
    page = visit(alice).page
    page.context.clear_cookies(name="sessionid")
    ask(page, "one")
    page.wait_for_selector("text=You are logged out.")
    assert asked(raw_engine) == []


def test_engines_of_others_are_not_offered(visit, alice, bob, portal, raw_engine):
    ready_engine(bob, raw_engine.port, name="bobs")
    ready_engine(bob, raw_engine.port, name="shared-one", shared=True)
    page = visit(alice).page
    assert page.inner_text("[data-engine]").strip() == "tiny · shared-one (bob)"


def test_without_an_engine_it_says_what_to_do(visit, alice, portal):
    watched = visit(alice)
    page = watched.page
    assert "No engine is ready" in page.inner_text(".nothing")
    assert page.is_disabled("[data-send]")
    assert watched.wrong == []


@pytest.mark.parametrize("language", ["curl", "python", "javascript"])
def test_the_next_request_is_shown_as_code(visit, alice, engine, raw_engine, portal, language):
    page = visit(alice).page
    page.fill("[data-prompt]", 'It\'s "fine"')
    page.click("[data-show-code]")
    page.select_option("[data-language]", language)
    shown = page.inner_text("[data-shown]")
    assert portal.url + "/v1" in shown
    assert ("It'\\''s" if language == "curl" else "It's") in shown
    if language == "python":
        compile(shown, "shown", "exec")


def test_it_is_worked_by_keyboard_alone(visit, alice, engine, raw_engine):
    raw_engine.answer = says("never", until="for ever")
    page = visit(alice).page
    assert page.evaluate("document.activeElement.hasAttribute('data-prompt')")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn.busy .answer > .text:not(:empty)")
    assert page.inner_text(".said") == "one\ntwo"
    page.keyboard.press("Escape")
    answered(page)


def test_a_dialog_is_opened_left_and_closed_by_keyboard(visit, alice, engine, raw_engine):
    page = visit(alice).page
    page.focus("[data-show-code]")
    page.keyboard.press("Enter")
    within = "document.activeElement.closest('dialog[open]') !== null"
    assert page.evaluate(within)
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate(f"document.activeElement === document.body || {within}"), "nothing behind it is reached"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.hasAttribute('data-show-code')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(visit, alice, engine, raw_engine, scheme):
    wide = "x" * 500
    raw_engine.answer = says(f"{wide}\n\n```\n{wide}\n```\n\n|a|b|\n|-|-|\n|{wide}|{wide}|\n\n# {wide}\n\n- {wide}")
    page = visit(alice, viewport={"width": 360, "height": 740}, color_scheme=scheme).page
    ask(page, wide)
    answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_an_engine_that_sleeps_wakes_and_says_how_far_it_is(
    visit, gateway, alice, engine, raw_engine, eventually, monkeypatch
):
    monkeypatch.setattr(hints, "send", lambda *_: None)
    raw_engine.answer = says("Good", " morning")
    fall_asleep(engine)
    eventually(lambda: knows_of_its_sleep(gateway, engine))
    watched = visit(alice)
    page = watched.page
    assert "(asleep)" in page.inner_text("[data-engine] option")
    ask(page, "Wake up")
    page.wait_for_function("() => document.querySelector('.turn .stats')?.textContent.endsWith('queued')")
    eventually(lambda: Engine.objects.get().state == "QUEUED")
    rises(engine, raw_engine.port)
    answered(page)
    assert page.inner_text(".answer > .text") == "Good morning"
    assert "tokens/s" in page.inner_text(".turn .stats")
    assert watched.wrong == []
