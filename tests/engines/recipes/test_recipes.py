"""`/api/v1/recipes`: what is fixed, and who may."""

import pytest

from engines import launching, leaving, starting
from engines.models import Engine
from engines.recipe_models import Recipe
from engines.states import State
from tests.engines.conftest import NOW
from tests.engines.recipes.conftest import RECIPES, newest, start
from tests.fakes.hub import COMMIT, GOOD_TOKEN, OLD_COMMIT
from tests.threads import at_once, lent

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = "/api/v1/engines"
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


# What is fixed


def test_an_engine_becomes_a_recipe_that_starts_the_same_again(hub, api, recipe):
    order = {
        "model": "acme/open", "revision": "v1", "tokenizer": "acme/open", "max_model_len": 512, "seed": 7,
        "tensor_parallel_size": 2, "quantization": "awq", "lease_hours": 4, "idle_minutes": 30, "wakes": False,
    }  # fmt: skip
    api().post(ENGINES, {**order, "hugging_face_hub_token": GOOD_TOKEN}, format="json")
    old = newest()
    made = recipe(engine=str(old.pk), notes="For the exam.")
    assert (made["revision"], made["tokenizer_revision"], made["owner"]) == (OLD_COMMIT, COMMIT, "alice")
    Engine.objects.filter(pk=old.pk).update(state=State.FAILED)

    assert start(api(), made).status_code == 202
    new = newest()
    same = (
        "model", "revision", "tokenizer", "tokenizer_revision", "max_model_len", "seed", "tensor_parallel_size",
        "quantization", "lease_hours", "idle_minutes", "wakes", "kind",
    )  # fmt: skip
    assert {name: getattr(new, name) for name in same} == {name: getattr(old, name) for name in same}
    assert new.pk != old.pk
    argv = [launching.launch_spec(engine).argv for engine in (old, new)]
    assert argv[0] == [old.name if word == new.name else word for word in argv[1]]


def test_options_become_a_recipe_whose_commit_is_that_of_today(hub, api, recipe):
    made = recipe(model="acme/open", seed=3)
    assert (made["revision"], made["seed"], made["image_digest"]) == (COMMIT, 3, "")
    assert not Engine.objects.exists()


@pytest.mark.parametrize("body", [{"model": "../x"}, {}, {"model": "acme/tiny", "max_model_len": 0}])
def test_what_could_not_be_started_becomes_no_recipe(api, body):
    assert api().post(RECIPES, {"name": "exam", **body}, format="json").status_code == 400
    assert not Recipe.objects.exists()


def test_an_engine_and_options_are_not_both_taken(api, engine_in):
    body = {"name": "exam", "engine": str(engine_in().pk), "seed": 3}
    assert list(api().post(RECIPES, body, format="json").json()) == ["seed"]


@pytest.mark.parametrize("name", ["", " ", "17", "a\nb", "x" * 81, 7, None])
def test_what_is_no_name(api, name):
    answer = api().post(RECIPES, {"name": name, "model": "acme/tiny"}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["name"])


def test_a_start_says_whose_token_how_long_and_with_whom(hub, api, recipe, people):
    made = recipe(model="acme/gated", hugging_face_hub_token=GOOD_TOKEN, lease_hours=4, idle_minutes=30)
    refused = start(api(), made)
    assert (refused.status_code, list(refused.json())) == (400, ["hugging_face_hub_token"])
    wish = {"hugging_face_hub_token": GOOD_TOKEN, "lease_hours": 1, "idle_minutes": None, "shared_users": ["bob"]}
    assert start(api(), made, wish).status_code == 202
    engine = newest()
    assert (engine.lease_hours, engine.idle_minutes, engine.hf_account) == (1, None, "alice-hf")
    assert list(engine.shared_users.all()) == [people["bob"]]


@pytest.mark.parametrize(
    "field", ["model", "revision", "max_model_len", "tensor_parallel_size", "seed", "tokenizer", "quantization"]
)
def test_what_is_fixed_is_neither_changed_nor_started_otherwise(api, recipe, field):
    made = recipe()
    for answer in (
        start(api(), made, {field: 1}),
        api().patch(f"{RECIPES}/{made['id']}", {field: 1}, format="json"),
    ):
        assert (answer.status_code, list(answer.json())) == (400, [field])
    assert not Engine.objects.exists()
    assert api().get(f"{RECIPES}/{made['id']}").json() == made


def test_no_client_names_an_image(api, recipe, docker):
    made = recipe(image="evil/image", image_digest=DIGEST, launcher="process")
    assert (made["image"], made["image_digest"], made["launcher"]) == ("vllm/vllm-openai:new", "", "docker")
    assert start(api(), made, {"image": "evil/image"}).status_code == 202
    assert newest().image == "vllm/vllm-openai:new"


def test_no_token_is_in_a_recipe(hub, api, recipe):
    made = recipe(model="acme/gated", hugging_face_hub_token=GOOD_TOKEN)
    row = Recipe.objects.values().get()
    assert GOOD_TOKEN not in f"{row}{made}"
    assert "alice-hf" not in f"{row}{made}"


def test_the_same_key_starts_once(api, recipe):
    made = recipe()
    first, second = (start(api(), made, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, first.json()["id"]) == (202, second.json()["id"])
    assert second["Idempotent-Replayed"] == "true"
    assert start(api(), recipe("other"), **{"Idempotency-Key": "k"}).status_code == 422


def test_the_terms_of_today_count(api, recipe, setting):
    made = recipe(lease_hours=100)
    setting(lease_hours_most=8)
    assert list(start(api(), made).json()) == ["lease_hours"]
    assert start(api(), made, {"lease_hours": 8}).status_code == 202


def test_once_more_is_of_the_recipe_while_it_asks_for_what_that_fixes(api, recipe, alice):
    started = start(api(), recipe(seed=7)).json()
    engine = Engine.objects.get(pk=started["id"])
    assert starting.start_again(engine, alice).recipe == engine.recipe
    Engine.objects.filter(pk=engine.pk).update(state=State.FAILED)
    for change, name in (({}, "exam"), ({"lease_hours": 1}, "exam"), ({"seed": 8}, None)):
        assert api().post(f"{ENGINES}/{engine.pk}/retry", change, format="json").json()["recipe"] == name


# Who may


def test_a_private_recipe_is_there_for_its_owner_and_admins_alone(api, recipe):
    made = recipe()
    path = f"{RECIPES}/{made['id']}"
    assert [one["name"] for one in api("root").get(RECIPES).json()["results"]] == ["exam"]
    assert api("bob").get(RECIPES).json()["results"] == []
    for answer in (
        api("bob").get(path), api("bob").patch(path, {"name": "x"}, format="json"), api("bob").delete(path),
        start(api("bob"), made),
    ):  # fmt: skip
        assert answer.status_code == 404


def test_a_published_one_is_for_all_to_start_and_for_its_owner_to_change(api, recipe):
    made = recipe(by="root", published=True)
    path = f"{RECIPES}/{made['id']}"
    assert api("bob").get(path).json()["published"] is True
    assert start(api("bob"), made).json()["owner"] == "bob"
    assert api("bob").patch(path, {"name": "x"}, format="json").status_code == 404
    assert api("bob").delete(path).status_code == 404
    assert api("root").patch(path, {"published": False}, format="json").status_code == 200
    assert start(api("bob"), made).status_code == 404


def test_admins_alone_publish(api, recipe):
    answer = api().post(RECIPES, {"name": "exam", "model": "acme/tiny", "published": True}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["published"])
    path = f"{RECIPES}/{recipe()['id']}"
    assert api().patch(path, {"published": True}, format="json").status_code == 400
    assert api("root").patch(path, {"published": True}, format="json").status_code == 200
    assert api().patch(path, {"published": True, "notes": "still mine"}, format="json").status_code == 200


def test_anothers_engine_becomes_no_recipe(api, engine_in, people):
    engine = engine_in(State.READY, owner=people["bob"], shared=True)
    answer = api().post(RECIPES, {"name": "exam", "engine": str(engine.pk)}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["engine"])


def test_each_owner_has_a_name_once_and_all_users_one_published_one(api, recipe):
    recipe("exam")
    recipe("exam", by="root", published=True)
    other = recipe("other", by="root")
    for answer in (
        api().post(RECIPES, {"name": "exam", "model": "acme/tiny"}, format="json"),
        api("root").patch(f"{RECIPES}/{other['id']}", {"name": "exam"}, format="json"),
    ):
        assert (answer.status_code, list(answer.json())) == (400, ["name"])
    mine = Recipe.objects.get(owner__username="alice")
    answer = api("root").patch(f"{RECIPES}/{mine.pk}", {"published": True}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["name"])


def test_of_two_at_once_with_one_name_one_is_made(people, client_of):
    clients = [client_of(people["alice"]) for _ in range(4)]

    @lent
    def make(client):
        return client.post(RECIPES, {"name": "exam", "model": "acme/tiny"}, format="json").status_code

    assert sorted(at_once(*[lambda client=client: make(client) for client in clients])) == [201, 400, 400, 400]


def test_a_user_keeps_so_many(api, recipe, monkeypatch):
    monkeypatch.setattr("engines.recipes.MOST", 1)
    recipe()
    answer = api().post(RECIPES, {"name": "more", "model": "acme/tiny"}, format="json")
    assert (answer.status_code, "delete one first" in answer.json()["detail"]) == (400, True)


def test_with_a_user_go_the_recipes_that_are_theirs_alone(api, recipe, people):
    recipe("mine")
    ours = recipe("ours")
    api("root").patch(f"{RECIPES}/{ours['id']}", {"published": True}, format="json")
    assert leaving.remove(people["alice"], people["root"], NOW, 1)
    assert [(one["name"], one["owner"]) for one in api("bob").get(RECIPES).json()["results"]] == [("ours", "")]


def test_a_recipe_that_goes_while_it_is_started_starts_nothing(api, recipe, monkeypatch):
    made, real = recipe(), starting.preflight.check

    def check(order):
        Recipe.objects.all().delete()
        return real(order)

    monkeypatch.setattr("engines.starting.preflight.check", check)
    assert start(api(), made).status_code == 404
    assert not Engine.objects.exists()


def test_an_engine_outlives_its_recipe(api, recipe):
    made = recipe()
    started = start(api(), made).json()
    assert started["recipe"] == "exam"
    assert api().delete(f"{RECIPES}/{made['id']}").status_code == 204
    assert api().get(f"{ENGINES}/{started['id']}").json()["recipe"] is None


def test_whom_an_engine_is_shared_with_learns_nothing_of_its_recipe(api, recipe):
    started = start(api(), recipe(), {"shared": True}).json()
    seen = api("bob").get(f"{ENGINES}/{started['id']}").json()
    assert (seen["recipe"], seen["warnings"]) == (None, [])
