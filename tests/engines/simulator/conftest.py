"""Engines for the tests: the stand-in, as a process, over HTTP. What vLLM 0.32 does is what is claimed of it here."""

import pytest

from tests.engines.simulator_process import SimulatorProcess


@pytest.fixture(scope="module")
def engine():
    """One engine for the tests that leave it as it was, without delays."""
    flags = ("--served-model-name", "tiny", "alias", "--max-model-len", "8K", "--simulate-token-seconds", "0")
    with SimulatorProcess(*flags) as process:
        yield process.ready()


@pytest.fixture
def start():
    """start(*flags): an engine of the test's own that listens; it is gone after the test."""
    started = []

    def make(*flags, **settings):
        started.append(SimulatorProcess(*flags, **settings))
        return started[-1].ready()

    yield make
    for process in started:
        process.close()
