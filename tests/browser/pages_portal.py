"""A whole portal with stand-in engines that take a moment to load, and visits to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
    assert wrong == []
