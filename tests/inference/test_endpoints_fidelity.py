"""What the engine answers reaches the client byte for byte: the same request to the stand-in and through the portal."""

import pytest

from tests.engines.simulator_process import SimulatorProcess
from tests.inference.conftest import ready_engine
from tests.inference.fidelity import ask, generating, pooling

TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


@pytest.fixture(scope="module")
def generator():
    flags = ("--served-model-name", "tiny", "--max-model-len", "1024", "--simulate-token-seconds", "0", *TOOLS)
    with SimulatorProcess(*flags) as process:
        yield process.ready()


@pytest.fixture(scope="module")
def pooler():
    flags = ("--served-model-name", "tiny", "--max-model-len", "512")
    with SimulatorProcess(*flags, model="acme/bge-small") as process:
        yield process.ready()


def differences(portal, user, engine, questions):
    authorization = portal.headers(user)["Authorization"]
    found = {}
    for asked in questions:
        direct = ask(f"http://127.0.0.1:{engine.port}", asked, "Bearer none")
        through = ask(portal.url, asked, authorization)
        if direct != through:
            found[str(asked)] = (direct, through)
    return found


def test_what_is_generated_is_the_same(portal, alice, generator, limit):
    limit(alice, prompt=10**7, generated=10**7)
    ready_engine(alice, generator.port)
    assert differences(portal, alice, generator, generating("tiny")) == {}


def test_vectors_and_scores_are_the_same(portal, alice, pooler, limit):
    limit(alice, prompt=10**7, generated=10**7)
    ready_engine(alice, pooler.port, task="embed")
    assert differences(portal, alice, pooler, pooling("tiny")) == {}
