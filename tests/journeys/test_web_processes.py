"""Several web processes share the port, and the limits hold over all of them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.journeys import whole_way
from tests.journeys.portal_process import PortalProcess

MODEL = "some-org/some-model"
LIMIT = 500


@pytest.fixture
def portal(tmp_path):
    portal = PortalProcess(tmp_path, launcher="simulator", stop_engines_on_exit="true", web_processes=2)
    yield portal.start()
    portal.stop()


def test_a_limit_holds_over_several_web_processes(portal):
    alice = portal.admin().add_user("alice", "correct horse", prompt_token_limit=10**9, gen_token_limit=LIMIT)
    whole_way.start(alice, MODEL, 2048, 60)

    def ask(number: int) -> requests.Response:
        """On a connection of its own, which some web process accepts."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 7, "ignore_eos": True}
        body["stream"] = number % 2 == 0
        return requests.post(portal.url + "/v1/chat/completions", json=body, headers=alice.headers, timeout=60)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(120)))

    # A request's id begins with what is its process's own.
    assert len({answer.headers["x-request-id"][:16] for answer in answers}) == 2, "one process did all the work"
    good = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} == {200, 429}
    portal.wait_for(lambda: alice.spent()[1] == LIMIT, 20, "the limit to be used up")
    assert -(-LIMIT // 7) <= len(good) <= LIMIT
    refused = ask(1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert portal.audit() == "all is as it must be\n"
    rows = portal.database_rows("select sum(generated_tokens) as tokens, count(*) as number from inference_usagerecord")
    assert rows == [{"tokens": LIMIT, "number": len(good)}]
