"""Which engine a request goes to."""

import pytest

from inference.body import read
from inference.breaker import FAILURES, Breaker
from inference.errors import ModelNotFound
from inference.routing import Caller, Route, Routes

ALICE, BOB = 1, 2


def engine(engine_id: str, owner_id: int = BOB, name: str = "") -> Route:
    address = ("127.0.0.1", 8000)
    return Route(engine_id, name or engine_id, "tiny", owner_id, True, address, b"", 1024, "generate", True, 0)


def chosen(*engines: Route, now: float = 0.0) -> str:
    routes = Routes(lambda: now)
    routes.replace(engines)
    return routes.model(Caller(ALICE, "alice", False, 1, 0), "tiny").engine_id


def test_of_several_the_one_with_the_fewest_tokens_is_taken():
    first, second, third = engine("first"), engine("second"), engine("third")
    for route, tokens in ((first, 3000), (second, 1000), (third, 2000)):
        route.line.outstanding = tokens
    assert chosen(first, second, third) == "second"


def test_ones_own_comes_before_others_however_busy():
    others, own = engine("others"), engine("own", owner_id=ALICE)
    own.line.outstanding = 100
    assert chosen(others, own) == "own"


def test_one_that_fails_is_out_at_once_and_tried_again_after_its_pause():
    own, busy = engine("own", owner_id=ALICE), engine("busy")
    busy.line.outstanding = 100
    own.breaker.failed(0.0)
    assert chosen(own, busy, now=0.9) == "busy"
    assert chosen(own, busy, now=1.0) == "own"
    for _ in range(FAILURES):
        own.breaker.failed(1.0)
    assert chosen(own, busy, now=2.9) == "busy"
    assert chosen(own, busy, now=3.0) == "own"


@pytest.mark.parametrize("fails", [Breaker.failed, Breaker.broke_off])
def test_an_answer_forgives_what_failed(fails):
    own, other = engine("own", owner_id=ALICE), engine("other")
    fails(own.breaker, 0.0)
    assert chosen(own, other) == "other"
    own.breaker.answered()
    assert chosen(own, other) == "own"


def test_where_all_have_failed_one_is_asked_all_the_same():
    first, second = engine("first"), engine("second")
    for route in (first, second):
        route.breaker.failed(0.0)
    first.line.outstanding = 1
    assert chosen(first, second) == "second"


def test_what_is_known_of_an_engine_outlives_a_reading_of_the_routes():
    routes, old, new = Routes(), engine("one"), engine("one", name="renamed")
    routes.replace([old], at_once=4)
    old.tokens_per_s = 7.0
    line, breaker = old.line, old.breaker
    routes.replace([new], at_once=2)
    (found,) = routes.usable_by(Caller(ALICE, "alice", False, 1, 0))
    assert (found.name, found.tokens_per_s) == ("renamed", 7.0)
    assert (found.line, found.breaker) == (line, breaker)
    assert found.line._most == 2
    routes.replace([])
    assert routes.usable_by(Caller(ALICE, "alice", False, 1, 0)) == []


def caller(user_id: int = ALICE, *, admin: bool = False, models: set[str] | None = None) -> Caller:
    return Caller(user_id, "somebody", admin, 1, 0, models=None if models is None else frozenset(models))


def snapshot(*engines: Route, **aliases: set[str]) -> Routes:
    routes = Routes(lambda: 0.0)
    routes.replace(engines, aliases={name: frozenset(targets) for name, targets in aliases.items()})
    return routes


def usable(routes: Routes, who: Caller, *names: str) -> list[str]:
    """Those of the names that the caller may send."""

    def may(name: str) -> bool:
        try:
            return bool(routes.model(who, name))
        except ModelNotFound:
            return False

    return [name for name in names if may(name)]


def test_who_may_use_an_engine():
    private, named = engine("private"), engine("named")
    private.shared = named.shared = False
    named.users = frozenset({ALICE})
    routes = snapshot(private, named)
    names = ("private", "named")
    assert usable(routes, caller(ALICE), *names) == ["named"]
    assert usable(routes, caller(BOB), *names) == ["private", "named"]
    assert usable(routes, caller(3), *names) == []
    assert usable(routes, caller(3, admin=True), *names) == ["private", "named"]


def test_what_is_taken_away_is_gone_with_the_next_reading():
    routes = Routes()
    for users, seen in (({ALICE}, ["one"]), (set(), [])):
        one = engine("one")
        one.shared, one.users = False, frozenset(users)
        routes.replace([one])
        assert usable(routes, caller(), "one") == seen


def test_an_alias_stands_for_models_and_for_engines():
    tiny, large = engine("tiny-1"), engine("large-1")
    large.model = "large"
    routes = snapshot(tiny, large, default={"large"}, mini={"tiny-1"}, both={"tiny", "large-1"}, nothing={"gone"})
    assert routes.model(caller(), "default") is large
    assert routes.model(caller(), "mini") is tiny
    large.line.outstanding = 5
    assert routes.model(caller(), "both") is tiny
    tiny.line.outstanding = 9
    assert routes.model(caller(), "both") is large
    assert usable(routes, caller(), "nothing", "gone") == []


def test_an_alias_is_all_that_its_name_means():
    """Or whoever starts an engine for a model of that name would be sent what is meant for another."""
    trap, real = engine("trap"), engine("real")
    trap.model, real.model = "default", "acme/real"
    assert snapshot(trap, real, default={"acme/real"}).model(caller(), "default") is real
    nowhere = snapshot(trap, default={"acme/real"})
    assert usable(nowhere, caller(), "default", "trap") == ["trap"]


@pytest.mark.parametrize(
    ("models", "may"),
    [
        ({"tiny"}, ["tiny", "tiny-1", "mini", "both"]),
        ({"mini"}, ["tiny", "tiny-1", "mini", "both"]),
        ({"tiny-1"}, ["tiny", "tiny-1", "mini", "both"]),
        ({"large"}, ["large", "large-1", "default", "both"]),
        ({"both"}, ["tiny", "tiny-1", "large", "large-1", "mini", "default", "both"]),
        ({"other"}, []),
    ],
)
def test_what_a_key_is_for_is_engines_by_whatever_name(models, may):
    tiny, large = engine("tiny-1"), engine("large-1")
    large.model = "large"
    routes = snapshot(tiny, large, default={"large"}, mini={"tiny-1"}, both={"tiny", "large"})
    names = ("tiny", "tiny-1", "large", "large-1", "mini", "default", "both")
    key = caller(models=models)
    assert usable(routes, key, *names) == may
    if {"tiny"} <= set(may) and "large" not in may:
        large.line.outstanding, tiny.line.outstanding = 0, 10**6
        assert routes.model(key, "both") is tiny


def test_another_engine_does_the_same_for_the_same_caller():
    failed, others, embeds = engine("failed"), engine("others"), engine("embeds")
    others.shared, embeds.task = False, "embed"
    routes = snapshot(failed, others, embeds)
    asked = read(b"{}")
    assert routes.instead(caller(ALICE), "tiny", failed, asked) is None
    assert routes.instead(caller(BOB), "tiny", failed, asked) is others
    assert routes.instead(caller(BOB), "failed", failed, asked) is None
