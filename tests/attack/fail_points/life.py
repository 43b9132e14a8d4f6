"""The life of an engine, and a portal that dies in the middle of it."""

import contextlib
import os
import signal
import sqlite3
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import requests

from tests.attack.fail_points import bring_back_soon, took
from tests.journeys import whole_way
from tests.journeys.portal_process import PortalProcess, Session

BYSTANDER, MODEL = "some-org/bystander", "some-org/some-model"
UP = ["QUEUED", "PLACED", "STARTING", "LOADING", "READY"]
DOWN = ["STOPPING", "STOPPED"]
MOVES = {
    "launch": UP + DOWN,
    "doze": [*UP, "WAKING", "READY", *DOWN],
    "sleep": [*UP, "ASLEEP", *UP, *DOWN],
    "afresh": UP + UP[1:] + DOWN,
    "stop": UP + DOWN,
    "failure": [*UP, "FAILED"],
}
"""What becomes of an engine, whichever process of the portal dies meanwhile."""


class MortalPortal(PortalProcess):
    """Dies where it is told to."""

    def __init__(self, directory: Path, **settings: object) -> None:
        super().__init__(directory, **settings)
        self.point = bring_back_soon(self)
        self._reader: sqlite3.Connection | None = None

    def die_at(self, step: str) -> None:
        draft = self.point.with_suffix(".draft")
        draft.write_text(step)
        draft.rename(self.point)

    def engine(self, column: str, value: str) -> dict:
        """The one whose `column` is that. It is looked at so often that opening the database each time would cost more
        than all else that the test does."""
        self._reader = self._reader or self._database("ro")
        query = f"select * from engines_engine where {column} = ?"  # noqa: S608
        (found,) = self._reader.execute(query, [value]).fetchall()
        return dict(found)

    def stop(self) -> int:
        if self._reader:
            self._reader.close()
            self._reader = None
        return super().stop()


class Lives:
    """Lives of engines with a death of the portal in each, beside an engine that nobody may touch."""

    def __init__(self, portal: MortalPortal, alice: Session, running: Callable[[], dict[str, set]]) -> None:
        """`running`: what runs now, by the name that the launcher knows it by."""
        self.portal, self.alice, self._all_that_run = portal, alice, running
        whole_way.start(alice, BYSTANDER, 2048, 120)
        self._others = running()

    def go(self, step: str, within: str) -> None:
        """`within`: launch, doze, sleep, afresh, stop or failure: the part of its life that the step belongs to."""
        if within == "launch":
            self.portal.die_at(step)
        engine = self.alice.post("/api/v1/engines", model=MODEL).json()["id"].replace("-", "")
        took_s = self._comes_to(engine, "READY", step)
        if within != "launch":
            self.portal.die_at(step)
        if within == "failure":
            self._kill(engine)
            took_s = self._comes_to(engine, "FAILED", step)
        else:
            if within == "sleep":
                took_s = self._sleeps_and_wakes(engine, step)
            elif within == "doze":
                took_s = self._dozes_and_wakes(engine, step)
            elif within == "afresh":
                took_s = self._starts_afresh(engine, step)
            self._asks(engine, "delete", "", "the stop")
            stopped_s = self._comes_to(engine, "STOPPED", step)
            took_s = stopped_s if within == "stop" else took_s
        self.portal.wait_for(lambda: not self.portal.point.exists(), 10, f"a death at {step}")
        assert self._moves(engine) == MOVES[within], f"after a death at {step}"
        took.note(within, step, took_s)

    def nothing_else_was_touched(self) -> bool:
        bystander = self.portal.engine("model", BYSTANDER)
        return (bystander["state"], bystander["generation"]) == ("READY", 1)

    def _sleeps_and_wakes(self, engine: str, step: str) -> float:
        """As if it had been put to rest a while ago. Seconds."""
        self.portal.change_rows(
            "update engines_engine set state = 'STOPPING', desired = 'sleep', cause_code = 'idle', "
            "state_since = '2020-01-01 00:00:00' where id = ?",
            engine,
        )
        slept_s = self._comes_to(engine, "ASLEEP", step)
        self._asks(engine, "post", "/wake", "the wish to wake it")
        woke_s = self._comes_to(engine, "READY", step)
        assert self._row(engine)["generation"] == 2, f"woken once in spite of a death at {step}"
        return max(slept_s, woke_s)

    def _starts_afresh(self, engine: str, step: str) -> float:
        """As if it had not woken from vLLM's sleep. Seconds."""
        ran = self._processes(engine)
        self.portal.change_rows("update engines_engine set state = 'STOPPING', desired = 'run' where id = ?", engine)
        started = time.monotonic()
        self.portal.wait_for(lambda: self._row(engine)["generation"] > 1, 60, f"a fresh start after a death at {step}")
        self._comes_to(engine, "READY", step)
        assert self._row(engine)["generation"] == 2, f"started afresh once in spite of a death at {step}"
        assert not self._processes(engine) & ran
        return time.monotonic() - started

    def _dozes_and_wakes(self, engine: str, step: str) -> float:
        """As if it had left the routes a while ago. Seconds. The engine that runs is the same all the time."""
        ran = self._processes(engine)
        self.portal.change_rows(
            "update engines_engine set state = 'SLEEPING', state_since = '2020-01-01 00:00:00' where id = ?", engine
        )
        started = time.monotonic()
        self.portal.wait_for(lambda: self._row(engine)["slept_at"], 60, f"its sleep after a death at {step}")
        dozed_s = time.monotonic() - started
        self._asks(engine, "post", "/wake", "the wish to wake it")
        woke_s = self._comes_to(engine, "READY", step)
        assert self._row(engine)["generation"] == 1
        assert self._processes(engine) == ran, f"it went on through a death at {step}"
        return max(dozed_s, woke_s)

    def _row(self, engine: str) -> dict:
        return self.portal.engine("id", engine)

    def _moves(self, engine: str) -> list[str]:
        events = "select new_state from engines_engineevent where engine_id = ? order by id"
        return [event["new_state"] for event in self.portal.database_rows(events, engine)]

    def _processes(self, engine: str) -> set:
        (found,) = [ids for name, ids in self._all_that_run().items() if engine[:12] in name]
        return found

    def _asks(self, engine: str, verb: str, what: str, words: str) -> None:
        """Until it is taken: the process that answers may be the one that dies."""
        url = f"{self.portal.url}/api/v1/engines/{uuid.UUID(engine)}{what}"

        def taken() -> bool:
            try:
                answer = requests.request(verb, url, headers=self.alice.headers, timeout=10)
            except requests.RequestException:
                return False
            return answer.ok or answer.status_code == 409  # by the time it is asked again it may be awake

        self.portal.wait_for(taken, 30, f"{words} to be taken")

    def _comes_to(self, engine: str, state: str, step: str) -> float:
        """Seconds until it was so."""
        started = time.monotonic()
        row: dict = {}

        def arrived() -> bool:
            row.update(self._row(engine))
            return row["state"] == state and self._running(engine) == (state == "READY")

        self.portal.wait_for(arrived, 60, f"{state} after a death at {step}; it is {row.get('state')}")
        return time.monotonic() - started

    def _kill(self, engine: str) -> None:
        for process_id in self._processes(engine):
            with contextlib.suppress(ProcessLookupError):  # the shell ends by itself once its engine has
                os.kill(process_id, signal.SIGKILL)

    def _running(self, engine: str) -> int:
        """How many of it run. What others run is as it was."""
        now = self._all_that_run()
        assert {name: ids for name, ids in now.items() if engine[:12] not in name} == self._others
        return sum(engine[:12] in name for name in now)
