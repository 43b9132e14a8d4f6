"""A whole portal with stand-in engines that take a moment to load, and visits to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.browser.chromium import Visit
from tests.journeys.portal_process import PortalProcess


@contextmanager
def running(directory: Path) -> Iterator[PortalProcess]:
    portal = PortalProcess(
        directory,
        launcher="simulator",
        stop_engines_on_exit="true",
        reconcile_seconds=0.5,
        simulator_args="--simulate-start-seconds=2",
    )
    try:
        yield portal.start()
    finally:
        portal.stop()


@contextmanager
def visiting(chromium, portal: PortalProcess) -> Iterator[Callable[..., Visit]]:
    """visit(**options of a browser's context): a Visit. What went wrong on its pages is an error at the end."""
    visits: list[Visit] = []

    def visit(**options) -> Visit:
        visits.append(Visit(chromium, portal.url, **options))
        return visits[-1]

    yield visit
    wrong = [text for one in visits for text in one.wrong]
    for one in visits:
        one.close()
    assert not wrong, wrong


@pytest.fixture(scope="module")
def portal(tmp_path_factory) -> Iterator[PortalProcess]:
    with running(tmp_path_factory.mktemp("portal")) as portal:
        yield portal


@pytest.fixture
def visit(chromium, portal):
    """visit(**options of a browser's context): a Visit; what went wrong on its pages fails the test."""
    with visiting(chromium, portal) as visit:
        yield visit


@pytest.fixture(scope="module")
def alice(portal) -> str:
    portal.admin().add_user("alice", "correct horse")
    return "alice"


@pytest.fixture
def engine(portal, alice):
    """start(model): an engine of alice's, and its id; it is READY."""
    made = []

    def start(model: str) -> str:
        session = portal.log_in(alice, "correct horse")
        made.append((session, session.post("/vllm_request/start", Model=model).json()["engine_id"]))
        return made[-1][1]

    yield start
    for session, engine_id in made:
        session.post("/vllm_request/terminate", container_id=engine_id)
