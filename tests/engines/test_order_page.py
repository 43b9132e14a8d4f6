"""The form of a start with recipes, adapters and completion; and the page of recipes."""

import html
import json
import re
import shlex

import pytest
from django.test import Client

from engines import completion, recipes
from engines.models import Engine
from engines.preflight import Order
from engines.recipe_models import Recipe
from engines.states import State

pytestmark = pytest.mark.django_db

NEW, HOSTILE = "/engine/new", "<script>alert(1)</script>"
URL = "http://testserver/api/v1/engines"
COMMIT = "c0ffee" * 6 + "c0ff"


@pytest.fixture
def browser_of():
    def make(user) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return make


@pytest.fixture
def recipe(alice):
    """recipe(name, owner, **fields of an order): made from options."""

    def make(name="exam", owner=None, published=False, **fields):
        order = Order(**{"model": "acme/tiny", **fields})
        return recipes.from_order(owner or alice, order, {"name": name, "published": published})

    return make


def fields(page: str) -> dict[str, str]:
    """What the form would send, as it stands."""
    form = page[page.index('id="order"') :]
    form = form[: form.index("</form>")]
    found = {}
    for tag in re.findall(r"<input [^>]*>", form):
        name, value = re.search(r' name="([^"]*)"', tag), re.search(r' value="([^"]*)"', tag)
        if name and value and 'type="checkbox"' not in tag and name[1] != "csrfmiddlewaretoken":
            found[name[1]] = html.unescape(value[1])
    found["adapters"] = html.unescape(re.search(r"<textarea [^>]*>([^<]*)</textarea>", form)[1])
    return found


def newest() -> Engine:
    return Engine.objects.latest("created_at")


# Recipes


def test_a_recipe_fills_the_form_and_is_started_as_it_is(browser_of, alice, recipe):
    made = recipe(max_model_len=512, seed=0, quantization="awq", lease_hours=4.0)
    Recipe.objects.update(adapters=[{"name": "sql", "model": "acme/sql", "revision": COMMIT}])
    browser = browser_of(alice)
    given = fields(browser.get(f"{NEW}?recipe={made.pk}").content.decode())
    assert given["adapters"] == f"sql=acme/sql@{COMMIT}"
    answer = browser.post(NEW, given)
    engine = newest()
    assert answer["Location"].endswith(str(engine.pk))
    assert (engine.recipe, engine.seed, engine.max_model_len, engine.lease_hours) == (made, 0, 512, 4.0)
    assert engine.adapters[0]["revision"] == COMMIT


def test_how_long_it_stays_may_be_changed_and_it_is_still_the_recipe(browser_of, alice, recipe):
    made = recipe(lease_hours=4.0)
    browser_of(alice).post(NEW, {"recipe": made.pk, "model": "acme/tiny", "lease_hours": "1", "shared": "true"})
    assert (newest().recipe, newest().lease_hours, newest().shared) == (made, 1.0, True)


def test_what_is_changed_is_an_order_of_its_own_and_that_is_said(browser_of, alice, recipe):
    made = recipe()
    browser = browser_of(alice)
    page = browser.post(NEW, {"recipe": made.pk, "model": "acme/tiny", "seed": "7"}, follow=True).content.decode()
    assert (newest().recipe, newest().seed) == (None, 7)
    assert "no longer the recipe exam" in page


def test_anothers_recipe_fills_in_nothing_and_starts_nothing_of_its_own(browser_of, bob, recipe):
    made = recipe(model="acme/secret")
    browser = browser_of(bob)
    page = browser.get(f"{NEW}?recipe={made.pk}").content.decode()
    assert "secret" not in page
    assert "exam" not in page
    browser.post(NEW, {"recipe": made.pk, "model": "acme/secret"})
    assert newest().recipe is None


@pytest.mark.parametrize("wrong", ["x", "-1", "9" * 30, "'", "\x00", ""])
def test_what_is_no_recipe_is_passed_over(browser_of, alice, wrong):
    browser = browser_of(alice)
    assert browser.get(NEW, {"recipe": wrong}).status_code == 200
    assert browser.post(NEW, {"recipe": wrong, "model": "acme/tiny"}).status_code == 302


def test_a_problem_keeps_what_was_typed_and_the_recipe(browser_of, alice, recipe):
    made = recipe()
    answer = browser_of(alice).post(NEW, {"recipe": made.pk, "model": "acme/tiny", "lease_hours": "0"})
    assert answer.status_code == 400
    assert fields(answer.content.decode())["recipe"] == str(made.pk)


def test_the_form_knows_what_the_recipe_fixes_and_warns(browser_of, alice, recipe):
    made = recipe(name='a"b', seed=7)
    page = html.unescape(browser_of(alice).get(f"{NEW}?recipe={made.pk}").content.decode())
    assert """portal launch --recipe 'a"b'</code>""" in page
    assert "does not know the model" in page


def test_an_engine_of_a_recipe_is_started_again_from_it(browser_of, alice, bob, recipe, engine_in):
    made = recipe(seed=7)
    engine = engine_in(State.FAILED, recipe=made, seed=7)
    given = fields(browser_of(alice).get(f"{NEW}?again={engine.pk}").content.decode())
    browser_of(alice).post(NEW, given)
    assert newest().recipe == made


# The same from a terminal


@pytest.fixture
def lines(browser_of, alice):
    """lines(**fields of the form): the line of `portal` and what curl sends, as the page shows them."""

    def ask(**given) -> tuple[str, str, dict]:
        page = html.unescape(browser_of(alice).post("/engine/lines", given).content.decode())
        portal, curl = re.findall(r"<code id=[^>]*>(.*?)</code>", page, flags=re.DOTALL)
        words = shlex.split(curl)
        return portal, words[1], json.loads(words[-1])

    return ask


def test_the_form_is_a_line_for_a_terminal(lines):
    assert lines() == ("portal launch facebook/opt-125m", URL, {"model": "facebook/opt-125m"})
    assert lines(model="it's", seed="0", gpu_memory_utilization=".5", shared="true", max_model_len="1e") == (
        """portal launch 'it'"'"'s' --max-model-len 1e --seed 0 --gpu-memory-utilization 0.5 --shared""",
        URL,
        {"model": "it's", "max_model_len": "1e", "seed": 0, "gpu_memory_utilization": 0.5, "shared": True},
    )


def test_no_token_is_in_a_line(lines):
    portal, _, sent = lines(model="a/b", hugging_face_hub_token="hf_secret")
    assert portal == "portal launch a/b --hf-token -"
    assert sent == {"model": "a/b", "hugging_face_hub_token": "…"}


def test_a_line_names_adapters(lines):
    portal, _, sent = lines(model="a/b", adapters="sql=acme/sql@v1\r\nmine=/models/a@b")
    assert portal == "portal launch a/b --adapter sql=acme/sql@v1 --adapter mine=/models/a@b"
    second = {"name": "mine", "model": "/models/a@b"}
    assert sent["adapters"] == [{"name": "sql", "model": "acme/sql", "revision": "v1"}, second]
    assert lines(model="a/b", adapters="half")[0] == "portal launch a/b --adapter half="


def test_an_unchanged_recipe_is_named_and_another_order_is_written_out(lines, recipe):
    made = recipe(seed=7, lease_hours=4.0)
    given = {"recipe": made.pk, "model": "acme/tiny", "tensor_parallel_size": "1", "lease_hours": "2"}
    assert lines(**given, seed="7") == (
        "portal launch --recipe exam --lease-hours 2", f"http://testserver/api/v1/recipes/{made.pk}/start",
        {"lease_hours": 2},
    )  # fmt: skip
    assert lines(**given, seed="8")[1:] == (
        URL, {"model": "acme/tiny", "tensor_parallel_size": 1, "seed": 8, "lease_hours": 2}
    )  # fmt: skip


def test_anothers_recipe_is_in_no_line(browser_of, bob, recipe):
    made = recipe("secret", model="acme/secret")
    page = browser_of(bob).post("/engine/lines", {"recipe": made.pk, "model": "acme/secret"}).content.decode()
    assert "recipe" not in page


def test_lines_are_for_people_who_are_logged_in_and_hold_no_markup(client, browser_of, alice):
    assert client.post("/engine/lines", {"model": "a/b"}).status_code == 401
    assert HOSTILE not in browser_of(alice).post("/engine/lines", {"model": HOSTILE}).content.decode()


# Adapters


def test_adapters_are_lines(browser_of, alice):
    text = " sql = acme/sql@v1 \n\nlaw=acme/law\n"
    assert browser_of(alice).post(NEW, {"model": "acme/tiny", "adapters": text}).status_code == 302
    assert newest().adapters == [
        {"name": "sql", "model": "acme/sql", "revision": "v1"}, {"name": "law", "model": "acme/law", "revision": ""},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"), [("sql", "may not be blank"), ("=x", "may not be blank"), ("a/b=acme/x", "64 letters"),
                       ("sql=../x", "no name of a repository"), ("\n".join(["a=b"] * 9), "no more than 8")]
)  # fmt: skip
def test_lines_that_name_none_are_said(browser_of, alice, text, said):
    answer = browser_of(alice).post(NEW, {"model": "acme/tiny", "adapters": text})
    page = html.unescape(answer.content.decode())
    assert (answer.status_code, said in page) == (400, True)
    assert fields(page)["adapters"] == text


def test_an_engine_that_failed_is_started_again_with_its_adapters_or_without(browser_of, alice, engine_in):
    adapters = [{"name": "sql", "model": "acme/sql", "revision": "v1"}]
    engine = engine_in(State.FAILED, adapters=adapters)
    page = browser_of(alice).get(f"{NEW}?again={engine.pk}").content.decode()
    assert fields(page)["adapters"] == "sql=acme/sql@v1"
    Engine.objects.filter(pk=engine.pk).update(change={"adapters": []})
    assert fields(browser_of(alice).get(f"{NEW}?again={engine.pk}").content.decode())["adapters"] == ""
    assert "Start again with no adapters" in browser_of(alice).get("/").content.decode()


def test_the_fit_is_asked_with_what_the_form_holds(browser_of, alice):
    answer = browser_of(alice).post("/engine/fit", {"model": "acme/tiny", "adapters": "a/b=x"})
    assert "64 letters" in answer.content.decode()


def test_an_engines_page_says_what_requests_may_call_its_adapters(browser_of, alice, engine_in):
    engine = engine_in(State.READY, adapters=[{"name": "sql", "model": "acme/sql", "revision": COMMIT}])
    page = browser_of(alice).get(f"/engine/{engine.pk}").content.decode()
    assert 'sql: <code>model="acme/tiny:acme/sql"</code>' in html.unescape(page)


# Completion


@pytest.fixture
def cache(tmp_path, settings, monkeypatch):
    from vllm_portal.config import get_config

    monkeypatch.setitem(get_config().__dict__, "hf_cache_dir", str(tmp_path))
    for name in ("acme--tiny", "acme--private"):
        (tmp_path / "hub" / f"models--{name}").mkdir(parents=True)


def told(user) -> dict[str, str]:
    return {one.model: one.told for one in completion.models_for(user)}


def test_names_are_those_that_one_may_know(cache, alice, bob, root, recipe, engine_in):
    recipe("mine", model="acme/mine")
    recipe("ours", owner=root, published=True, model="acme/ours")
    engine_in(State.STOPPED, model="acme/tiny")
    engine_in(State.READY, owner=root, model="acme/shared", shared=True)
    everybodys = {"acme/ours": "recipe ours", "acme/shared": ""}
    assert told(bob) == everybodys
    assert told(alice) == everybodys | {"acme/mine": "recipe mine", "acme/tiny": "in the cache"}
    assert told(root) == told(alice) | {"acme/private": "in the cache"}


def test_the_form_completes_them(cache, browser_of, alice, bob, recipe):
    recipe("mine", model="acme/mine")
    page = browser_of(alice).get(NEW).content.decode()
    assert '<option value="acme/mine" label="acme/mine · recipe mine"></option>' in page
    assert "acme/mine" not in browser_of(bob).get(NEW).content.decode()


def test_a_cache_that_cannot_be_looked_into_completes_nothing(root, monkeypatch):
    from vllm_portal.config import get_config

    monkeypatch.setitem(get_config().__dict__, "hf_cache_dir", "a-volume")
    assert told(root) == {}


# The page of recipes


def test_an_engine_is_kept_as_a_recipe_and_that_is_deleted(browser_of, alice, engine_in):
    engine = engine_in(State.READY, seed=7)
    browser = browser_of(alice)
    answer = browser.post(f"/engine/{engine.pk}/recipe", {"name": "exam", "notes": HOSTILE}, follow=True)
    page = answer.content.decode()
    assert (Recipe.objects.get().seed, "The recipe exam is kept." in page) == (7, True)
    assert html.escape(HOSTILE) in page
    assert HOSTILE not in page
    browser.post(f"/recipes/{Recipe.objects.get().pk}/delete")
    assert not Recipe.objects.exists()
    assert "There are none yet." in browser.get("/recipes").content.decode()


@pytest.mark.parametrize(
    "given", [{"name": ""}, {"name": "17"}, {}, {"name": "x" * 99}, {"name": "a", "published": "on"}]
)
def test_what_cannot_be_kept_is_said(browser_of, alice, engine_in, given):
    engine = engine_in(State.READY)
    answer = browser_of(alice).post(f"/engine/{engine.pk}/recipe", given, follow=True)
    assert 'class="message error"' in answer.content.decode()
    assert not Recipe.objects.exists()


def test_everybody_sees_their_own_and_the_published_ones(browser_of, alice, bob, root, recipe, engine_in):
    mine, ours = recipe("mine"), recipe("ours", owner=root, published=True)
    page = browser_of(bob).get("/recipes").content.decode()
    assert ("mine" in page, "ours" in page, "Delete" in page) == (False, True, False)
    assert browser_of(bob).post(f"/recipes/{ours.pk}/delete").status_code == 404
    assert browser_of(bob).post(f"/recipes/{mine.pk}/delete").status_code == 404
    engine = engine_in(State.READY)
    assert browser_of(bob).post(f"/engine/{engine.pk}/recipe", {"name": "x"}).status_code == 404
    assert browser_of(root).get("/recipes").content.decode().count("For good") == 2


def test_the_pages_are_for_people_who_are_logged_in(client, recipe):
    made = recipe()
    assert client.get("/recipes").status_code == 302
    assert client.post(f"/recipes/{made.pk}/delete").status_code == 302
    assert Recipe.objects.exists()
