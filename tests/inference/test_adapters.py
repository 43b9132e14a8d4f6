"""LoRA adapters in requests: which names mean them, for whom, and how they are recorded."""

import json

import pytest

from engines import sharing
from inference.aliases import save
from inference.errors import InvalidRequest, ModelNotFound
from inference.model_list import models_of
from inference.models import ModelAlias, UsageRecord
from inference.routing import Caller, Route, Routes
from tests.inference.conftest import ready_engine

ALICE, BOB = 1, 2
BASE, REPOSITORY = "acme/tiny", "acme/tiny-sql"
FULL = f"{BASE}:{REPOSITORY}"


def engine(engine_id: str = "one", owner_id: int = ALICE, shared: bool = True, model: str = BASE, **adapters: str):
    """The engine and behind it its adapters, `name=repository`."""

    def route(model: str, adapter: str = "") -> Route:
        known = ("127.0.0.1", 8000), b"", 1024, "generate", True, 0
        return Route(engine_id, f"{engine_id}-3fa9", model, owner_id, shared, *known, adapter=adapter, parent=BASE)

    return [route(model), *(route(name, f"{model}:{repository}") for name, repository in adapters.items())]


def caller(user_id: int = ALICE, *, admin: bool = False, models: set[str] | None = None) -> Caller:
    return Caller(user_id, "somebody", admin, 1, 0, models=frozenset(models) if models else None)


@pytest.fixture
def routes():
    """routes(*engines, **aliases): a snapshot."""

    def make(*engines, **aliases):
        made = Routes()
        made.replace(
            [route for one in engines for route in one], aliases={name: frozenset(to) for name, to in aliases.items()}
        )
        return made

    return make


def found(routes, who, name, engine_id=None):
    """(engine, what it is asked for), or the kind of the refusal."""
    try:
        route = routes.find(who, engine_id, name)
    except (ModelNotFound, InvalidRequest) as error:
        return type(error)
    return route.engine_id, route.model


def test_the_owner_calls_it_by_its_name_and_everybody_by_what_it_is(routes):
    known = routes(engine(sql=REPOSITORY))
    assert found(known, caller(ALICE), "sql") == ("one", "sql")
    assert found(known, caller(ALICE), FULL) == ("one", "sql")
    assert found(known, caller(BOB), FULL) == ("one", "sql")
    assert found(known, caller(BOB), BASE) == ("one", BASE)


def test_a_name_that_somebody_chose_takes_nobodys_requests(routes):
    known = routes(engine(sql=REPOSITORY))
    assert found(known, caller(BOB), "sql") is ModelNotFound
    assert found(known, caller(BOB, admin=True), "sql") is ModelNotFound


@pytest.mark.parametrize("taken", ["gpt2", "two-3fa9"])
def test_a_models_or_an_engines_name_goes_before_that_of_an_adapter(routes, taken):
    known = routes(engine(**{taken: REPOSITORY}), engine("two", BOB, model="gpt2"))
    assert found(known, caller(ALICE), taken) == ("two", "gpt2")
    assert found(known, caller(BOB), taken) == ("two", "gpt2")


def test_an_alias_means_nothing_else_also_while_nothing_of_it_runs(routes):
    known = routes(engine(default=REPOSITORY), default=["acme/away"])
    assert found(known, caller(ALICE), "default") is ModelNotFound
    assert found(known, caller(ALICE, models={"default"}), FULL) is ModelNotFound


def test_an_admins_alias_is_a_name_for_everybody(routes):
    known = routes(engine(sql=REPOSITORY), engine("two", BOB, other=REPOSITORY), writer=[FULL])
    assert found(known, caller(3), "writer") in {("one", "sql"), ("two", "other")}
    assert found(known, caller(BOB), "writer") == ("two", "other")


def test_an_alias_for_an_engine_means_its_model(routes):
    known = routes(engine(sql=REPOSITORY), default=["one-3fa9"])
    assert found(known, caller(BOB), "default") == ("one", BASE)


def test_two_adapters_of_one_name_are_not_mixed(routes):
    known = routes(engine(sql=REPOSITORY), engine("two", sql="acme/other-sql"))
    assert found(known, caller(ALICE), "sql") is InvalidRequest
    assert found(known, caller(ALICE), FULL) == ("one", "sql")
    with pytest.raises(InvalidRequest, match=f"{BASE}:acme/other-sql or {FULL}"):
        known.model(caller(ALICE), "sql")


def test_one_adapter_on_two_engines_is_shared_work_and_another_engine_takes_over(routes):
    known = routes(engine(sql=REPOSITORY), engine("two", sql=REPOSITORY))
    first = known.model(caller(ALICE), "sql")
    first.line.outstanding = 1000
    second = known.model(caller(ALICE), "sql")
    assert {first.engine_id, second.engine_id} == {"one", "two"}
    for name in ("sql", FULL):
        assert known.instead(caller(ALICE), name, first, None) is second


def test_another_adapter_does_not_take_over(routes):
    known = routes(engine(sql=REPOSITORY))
    failed = known.model(caller(ALICE), "sql")
    known.replace([*engine(sql=REPOSITORY), *engine("two", sql="acme/other-sql")])
    assert known.instead(caller(ALICE), "sql", failed, None) is None


def test_an_engine_and_its_adapters_are_one_process(routes):
    known = routes(engine(sql=REPOSITORY, law="acme/law"))
    base, sql, law = known.usable_by(caller(BOB))
    assert base.line is sql.line is law.line
    assert base.breaker is sql.breaker is law.breaker
    assert base.known is not sql.known
    line = base.line
    known.replace(engine(sql=REPOSITORY))
    assert known.model(caller(BOB), FULL) is sql
    assert (sql.line, sql.gone, law.gone) == (line, False, True)


def test_without_a_model_it_is_the_engines_own(routes):
    assert found(routes(engine(sql=REPOSITORY)), caller(BOB), None) == ("one", BASE)


@pytest.mark.parametrize(
    ("asked", "answer"), [("sql", "sql"), (FULL, "sql"), (BASE, BASE), ("one-3fa9", BASE), (None, BASE), ("x", BASE)]
)
def test_by_its_engine_everybody_may_name_it(routes, asked, answer):
    """What else is named there, the engine judges itself."""
    assert found(routes(engine(sql=REPOSITORY)), caller(BOB), asked, "one") == ("one", answer)


@pytest.mark.parametrize(
    ("models", "allowed"),
    [
        ({BASE}, {BASE}),
        ({FULL}, {FULL, "sql", "writer"}),
        ({"sql"}, {FULL, "sql", "writer"}),
        ({"one-3fa9"}, {BASE, FULL, "sql", "writer"}),
        ({"writer"}, {FULL, "sql", "writer"}),
        ({"else"}, set()),
    ],
)
def test_a_key_is_for_what_it_names(routes, models, allowed):
    known = routes(engine(sql=REPOSITORY), writer=[FULL])
    who = caller(ALICE, models=models)
    answers = {name: found(known, who, name) for name in (BASE, FULL, "sql", "writer")}
    assert {name for name, answer in answers.items() if answer is not ModelNotFound} == allowed
    by_engine = {name: found(known, who, name, "one") for name in (BASE, FULL, "sql")}
    assert {name for name, answer in by_engine.items() if answer is not ModelNotFound} == allowed - {"writer"}


def test_a_key_for_ones_own_name_opens_nobody_elses_adapter(routes):
    known = routes(engine(sql=REPOSITORY))
    assert found(known, caller(BOB, models={"sql"}), FULL) is ModelNotFound


def test_a_private_engines_adapters_are_private(routes):
    known = routes(engine(shared=False, sql=REPOSITORY))
    for name in ("sql", FULL):
        assert found(known, caller(BOB), name) is ModelNotFound
        assert found(known, caller(BOB), name, "one") is ModelNotFound


@pytest.mark.parametrize("anthropic", [False, True])
def test_lists_name_what_requests_may(routes, anthropic):
    known = routes(engine(sql=REPOSITORY), engine("two", BOB, sql="acme/bobs"), default=[FULL])
    bobs = f"{BASE}:acme/bobs"
    for who, own in ((ALICE, {"sql": FULL}), (BOB, {"sql": bobs}), (3, {})):
        models = models_of(known.usable_by(caller(who)), known.aliases, anthropic, who)
        assert set(models) == {BASE, FULL, bobs, "default", *own}
        for name in models:
            assert found(known, caller(who), name) not in (ModelNotFound, InvalidRequest)
    if not anthropic:
        assert (models[FULL]["parent"], models[FULL]["root"], "parent" in models[BASE]) == (BASE, FULL, False)


def test_lists_leave_out_a_name_that_means_something_else(routes):
    known = routes(engine(gpt2=REPOSITORY), engine("two", BOB, model="gpt2"), engine("three", gpt2="acme/other"))
    models = models_of(known.usable_by(caller(ALICE)), known.aliases, False, ALICE)
    assert models["gpt2"]["engines"] == ["two-3fa9"]
    known = routes(engine(sql=REPOSITORY), engine("two", sql="acme/other"))
    assert "sql" not in models_of(known.usable_by(caller(ALICE)), known.aliases, False, ALICE)


# Through the whole data plane


@pytest.fixture
def loaded(portal, alice, raw_engine):
    """alice's engine with an adapter, shared with all."""
    adapters = [{"name": "sql", "model": REPOSITORY, "revision": "c0ffee"}]
    engine = ready_engine(alice, raw_engine.port, model=BASE, adapters=adapters)
    sharing.change(engine, shared=True)
    return engine


def models_asked(raw_engine) -> list[str]:
    """What the engine was asked for, in order; the questions to its tokenizer left out."""
    return [json.loads(one.body)["model"] for one in raw_engine.received if one.path != "/tokenize"]


@pytest.mark.django_db(transaction=True)
def test_the_engine_is_asked_for_its_own_name_and_the_record_says_what_it_is(
    portal, loaded, alice, bob, raw_engine, limit, eventually
):
    save(ModelAlias(name="writer", targets=[FULL]))
    by_engine = f"/engines/{loaded.pk}/v1/chat/completions"
    question = [{"role": "user", "content": "hi"}]
    asked = [
        (alice, "/v1/chat/completions", "sql"), (bob, "/v1/chat/completions", FULL),
        (bob, "/v1/chat/completions", "writer"), (bob, by_engine, "sql"), (bob, by_engine, FULL),
    ]  # fmt: skip
    for user, path, model in asked:
        answer = portal.post(user, path, {"model": model, "messages": question})
        assert answer.status_code == 200, answer.text
    assert models_asked(raw_engine) == ["sql"] * len(asked)
    eventually(lambda: UsageRecord.objects.count() == len(asked))
    assert set(UsageRecord.objects.values_list("model", flat=True)) == {FULL}
    assert portal.chat(bob, model="sql").status_code == 404
    assert portal.chat(bob, model=BASE).status_code == 200
    assert models_asked(raw_engine)[-1] == BASE
    assert {one["id"] for one in portal.get(alice, "/v1/models").json()["data"]} == {BASE, FULL, "writer", "sql"}
    by_id = portal.get(bob, f"/engines/{loaded.pk}/v1/models").json()["data"]
    assert {one["id"] for one in by_id} == {BASE, FULL, "writer"}


@pytest.mark.django_db(transaction=True)
def test_the_simple_door_takes_an_adapter_too(portal, loaded, alice, raw_engine):
    endpoint = f"{portal.url}/engines/{loaded.pk}/v1/completions"
    for body in ({"model": "sql"}, {"model": "sql", "inference_endpoint": endpoint}, {"model": FULL}):
        answer = portal.post(alice, "/llm_request", {"prompt": "hi", **body})
        assert answer.status_code == 200, answer.text
        assert models_asked(raw_engine)[-1] == "sql"
