"""OpenAI's and Anthropic's packages, LangChain and curl, against the portal with a stand-in engine behind it."""

import shutil

import pytest

from inference.models import UsageRecord
from tests.clients.claims import CLAIMS, Served, curl_streams
from tests.engines.simulator_process import SimulatorProcess
from tests.inference.conftest import ready_engine


@pytest.fixture(scope="module")
def simulator():
    with SimulatorProcess("--max-model-len", "1024", "--simulate-token-seconds", "0") as process:
        yield process.ready()


@pytest.fixture
def served(portal, alice, simulator, limit):
    limit(alice, prompt=10**6, generated=10**6)
    ready_engine(alice, simulator.port, model="acme/tiny")
    return Served(portal.url, portal.headers(alice)["Authorization"].removeprefix("Bearer "), "acme/tiny")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_a_client_works_and_what_it_used_is_what_the_engine_counted(served, simulator, eventually, claim):
    if claim is curl_streams and not shutil.which("curl"):
        pytest.skip("there is no curl on this machine")
    before = simulator.tokens()
    claim(served)

    def accounted() -> bool:
        rows = UsageRecord.objects.values_list("prompt_tokens", "generated_tokens", "exact")
        counted = tuple(after - old for after, old in zip(simulator.tokens(), before, strict=True))
        return all(row[2] for row in rows) and counted == (sum(row[0] for row in rows), sum(row[1] for row in rows))

    eventually(accounted)
