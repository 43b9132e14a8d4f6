"""A portal whose processes have this folder's `sitecustomize`: they die where they are told to."""

from pathlib import Path

import psutil

from tests.journeys.portal_process import PortalProcess

HERE = Path(__file__).parent


def bring_back_soon(portal: PortalProcess) -> Path:
    """Who dies often comes back as soon as who dies once. Returns the file that names the step to die at."""
    point = portal.directory / "point"
    portal.environment |= {"PYTHONPATH": str(HERE), "FAIL_POINT": str(point)}
    return point


class StandIns:
    """The stand-in engines of one portal that run."""

    def __init__(self, portal: PortalProcess) -> None:
        self._home = portal.directory.resolve()

    def starts(self) -> dict[str, int]:
        """How often each that has ended was started, by the log that was kept of it."""
        kept = (self._home / "data" / "engine-logs").glob("*.log")
        return {log.stem: log.read_text().count("This is the simulated engine") for log in kept}

    def processes(self) -> dict[str, set[int]]:
        """Name of the engine's folder -> process ids."""
        found: dict[str, set[int]] = {}
        for process in psutil.process_iter(["cmdline", "status"]):
            if "engines.simulator" not in (process.info["cmdline"] or ()) or process.info["status"] == "zombie":
                continue
            try:
                home = Path(process.cwd())
            except psutil.Error:
                continue  # it has just ended
            if home.is_relative_to(self._home):
                found.setdefault(home.name, set()).add(process.pid)
        return found
