"""200 hostile outputs of a model: each is there to read, none is executed, none asks another host.

What is tested is that the page makes only elements that it knows; a Content-Security-Policy would be the second lock.
"""

import random

import pytest
from django.utils import timezone

from inference import conversations
from tests.browser.hostile import HTML, outputs
from tests.browser.playground_portal import says
from tests.browser.test_playground import answered, ask

OUTPUTS = outputs()
# What the page may make of an answer, and what of it may stand at an element.
ELEMENTS = [
    "P", "H3", "H4", "H5", "H6", "UL", "OL", "LI", "BLOCKQUOTE", "HR", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD",
    "EM", "STRONG", "DEL", "CODE", "PRE", "BR", "A", "SPAN", "DIV", "BUTTON",
]  # fmt: skip
ATTRIBUTES = ["class", "href", "title", "target", "rel", "start", "tabindex", "type"]
FOUND = """([elements, attributes]) => {
  const within = [...document.querySelectorAll('.turns .text *')];
  const strange = within.filter((one) => !elements.includes(one.tagName));
  const marks = within.flatMap((one) => [...one.attributes]).filter((one) => !attributes.includes(one.name));
  const web = (a) => /^https?:$/.test(a.protocol) && !a.username;
  const apart = (a) => a.rel.includes('noopener') && a.target === '_blank';
  const links = [...document.querySelectorAll('.turns .text a')].filter((one) => !web(one) || !apart(one));
  return [strange.map((one) => one.outerHTML.slice(0, 200)), marks.map((one) => one.name), links.map((a) => a.href)];
}"""


@pytest.fixture
def kept(alice):
    """All outputs as turns of one conversation."""
    talk = conversations.start(alice, timezone.now(), "Hostile")
    for word, output in OUTPUTS:
        conversations.add_turn(talk, f"Say {word}", output.encode("utf-8", "replace").decode(), timezone.now())
    return talk


@pytest.fixture
def page(visit, alice, engine):
    """A page that counts in `hits` how often `hit` is called."""
    watched = visit(alice)
    watched.page.evaluate("() => { window.hits = 0; window.hit = () => { window.hits += 1; }; }")
    watched.page.set_default_timeout(120_000)
    yield watched.page
    assert watched.page.evaluate("hits") == 0
    assert watched.wrong == []
    assert watched.page.evaluate(FOUND, [ELEMENTS, ATTRIBUTES]) == [[], [], []]
    assert watched.page.url.endswith("/playground")


def test_there_are_two_hundred_of_them_and_each_is_another():
    assert len({output for _, output in OUTPUTS}) == len(OUTPUTS) >= 200


def test_kept_ones_are_text(kept, page):
    page.click("[data-list] .open")
    page.wait_for_function("n => document.querySelectorAll('.turn').length === n", arg=len(OUTPUTS))
    texts = page.eval_on_selector_all(".answer > .text", "all => all.map((one) => one.textContent)")
    assert [word for (word, _), text in zip(OUTPUTS, texts, strict=True) if word not in text] == []
    for text, (_, output), given in zip(texts, OUTPUTS, HTML, strict=False):
        if "**" not in given and "\\" not in given:
            assert text == output


def test_streamed_ones_are_text(page, raw_engine):
    source, whole = random.Random(1), "\n\n".join(output for _, output in OUTPUTS if len(output) < 200)
    whole = whole.encode("utf-8", "replace").decode()
    pieces = []
    while whole:
        length = source.choice([1, 2, 3, 5, 8, 40])
        pieces.append(whole[:length])
        whole = whole[length:]
    raw_engine.answer = says(*pieces)
    ask(page, "Say it all")
    answered(page)
    assert "w0w" in page.inner_text(".answer > .text")


@pytest.mark.parametrize("output", ["a" * 1_000_000, "<script>hit()</script>" * 45_000, "*a _b " * 170_000])
def test_a_megabyte_in_one_line_is_streamed(page, raw_engine, output):
    raw_engine.answer = says(*(output[at : at + 20_000] for at in range(0, len(output), 20_000)))
    ask(page, "Say much")
    answered(page)
    assert page.eval_on_selector(".answer > .text", "one => one.textContent.length") == len(output)
    page.fill("[data-prompt]", "the page can still be used")


def test_whatever_the_tree_is_only_known_elements_are_made(page):
    """The second lock, behind the reader of Markdown."""
    html = """async (nodes) => {
      const { render } = await import('/static/inference/dom.js');
      const place = document.querySelector('.turns');
      place.append(render(nodes));
      return place.innerHTML;
    }"""
    tree = [
        ["script", {}, "hit()"], ["img", {"src": "x", "onerror": "hit()"}], ["iframe", {"src": "javascript:hit()"}],
        ["p", {"onclick": "hit()", "style": "color:red", "id": "x", "class": "danger"}, "a"],
        ["a", {"href": "javascript:hit()"}, "b"], ["a", {"href": "//evil.example"}, "c"], ["a", {}, "d"],
        ["ol", {"start": "1 onclick=hit()"}, ["li", {"class": "right"}, "<b>e</b>"]],
    ]  # fmt: skip
    made = 'hit()<p>a</p>bcd<ol><li class="right">&lt;b&gt;e&lt;/b&gt;</li></ol>'
    assert page.evaluate(html, tree) == made


def test_a_hostile_name_of_a_conversation_is_text(page, alice):
    name = "<img src=x onerror=hit()>\"'>"
    conversations.start(alice, timezone.now(), name)
    page.fill("[name=search]", "<img")
    page.wait_for_function("() => document.querySelectorAll('[data-list] .open').length === 1")
    assert page.inner_text("[data-list] .open") == name


def test_a_hostile_prompt_is_text(page, raw_engine):
    raw_engine.answer = says("fine")
    prompt = "<img src=x onerror=hit()>`'\"\\ $(touch x)"
    ask(page, prompt)
    answered(page)
    assert page.inner_text(".said") == prompt
    page.click("[data-show-code]")
    assert "<img src=x onerror=hit()>`'\\''" in page.inner_text("[data-shown]")
