"""Many requests, and each token counted: no limit overrun, no request refused for nothing, nothing left reserved.

`make test-attack REQUESTS=100000 ROUNDS=200` makes it long; with LEAVING=0 nobody hangs up, and the audit finds the
engines' own counters equal to the records instead of near them."""

import asyncio
import os
from collections import Counter

import pytest
import redis

from tests.journeys import whole_way
from tests.journeys.crowd import Client, Passers, crowd
from tests.journeys.portal_process import PortalProcess

MODEL = "some-org/some-model"
REQUESTS = int(os.environ.get("REQUESTS", "2000"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
LEAVING = float(os.environ.get("LEAVING", "0.1"))
AT_ONCE = 256
LIMIT, EACH = 500, 7
SEED = 20261123
AMPLE = {"prompt_token_limit": 10**9, "gen_token_limit": 10**9}


@pytest.fixture
def portal(tmp_path):
    portal = PortalProcess(
        tmp_path, launcher="simulator", stop_engines_on_exit="true", default_requests_per_minute=10**6
    )
    yield portal.start()
    portal.stop()


def settle(portal: PortalProcess) -> None:
    """Returns when nothing is open and all is in the database."""
    ledger = redis.Redis(unix_socket_path=str(portal.directory / "data" / "redis" / "redis.sock"))
    portal.wait_for(lambda: not ledger.exists("outbox") and not ledger.keys("running:*"), 120, "all to be written")


def test_no_round_of_parallel_requests_overruns_its_limit(portal):
    admin = portal.admin()
    alice = admin.add_user("alice", "correct horse", prompt_token_limit=10**9, gen_token_limit=1)
    whole_way.start(alice, MODEL, 2048, 60)
    outcomes: Counter[str] = Counter()

    async def act(client: Client, number: int) -> None:
        status, said = await client.ask(EACH, stream=number % 2 == 0)
        outcomes[str(status) if status == 200 else said["code"]] += 1

    for limit in range(LIMIT, (ROUNDS + 1) * LIMIT, LIMIT):
        raised = admin.post("/db_request/update_token_limit/", username="alice", gen_token_limit=limit)
        assert raised.status_code == 200, raised.text
        asyncio.run(crowd(portal.port, [alice.token] * AT_ONCE, MODEL, act, AT_ONCE))
        settle(portal)
        assert alice.spent()[1] == limit, "all that was left, and not one token more"
    print(dict(outcomes))
    assert set(outcomes) <= {"200", "insufficient_quota", "rate_limit_exceeded"}
    assert ROUNDS * LIMIT // EACH <= outcomes["200"] < ROUNDS * AT_ONCE
    assert portal.audit() == "all is as it must be\n"


def test_of_many_requests_none_is_refused_lost_or_held_for_ever(portal):
    people = [portal.admin().add_user(name, "correct horse", **AMPLE) for name in ("alice", "bob", "carol")]
    for person in people:
        whole_way.start(person, MODEL, 2048, 60)
    passers = Passers(SEED, leaving=LEAVING)
    asyncio.run(crowd(portal.port, [person.token for person in people] * 20, MODEL, passers.act, REQUESTS))
    settle(portal)

    query = "select prompt_tokens, generated_tokens, outcome, exact from inference_usagerecord where path like '/v1/%'"
    rows = portal.database_rows(query)
    outcomes = Counter(row["outcome"] for row in rows)
    print(f"{passers.told.total()} whole answers, {passers.left} left; records: {dict(outcomes)}")
    assert not passers.refused
    exact = Counter((row["prompt_tokens"], row["generated_tokens"]) for row in rows if row["exact"])
    assert passers.told <= exact, "each whole answer is recorded with the usage that it named"
    assert passers.told.total() <= len(rows) <= REQUESTS  # who leaves at once may not have been let in yet
    assert set(outcomes) <= {"completed", "aborted"}
    spent = [sum(row[name] for row in rows) for name in ("prompt_tokens", "generated_tokens")]
    assert [sum(numbers) for numbers in zip(*(person.spent() for person in people), strict=True)] == spent
    assert portal.audit() == "all is as it must be\n"
