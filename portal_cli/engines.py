"""`ps`, `stop`, `rm`: engines and their end."""

import time
import uuid
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from rich.text import Text

from portal_cli.credentials import find
from portal_cli.failures import ExitCode, Failure
from portal_cli.portal import Portal, part
from portal_cli.screen import Screen, ago, clean

PATH = "/api/v1/engines"
ENDED = ("STOPPED", "FAILED")
RUNNING = (
    *("QUEUED", "PLACED", "PULLING", "FETCHING", "STARTING", "LOADING"),
    *("READY", "UNHEALTHY", "SLEEPING", "WAKING", "STOPPING", "ASLEEP"),
)
_LOOK_AGAIN_S = 1.0
_TELL_AGAIN_S = 10.0
"""Between two lines of a file about the same state: a download says something new all the time."""

Engine = dict[str, Any]


def ps(given: Namespace, screen: Screen) -> None:
    shown = list(Portal(find(given)).pages(PATH, **({} if given.all else {"state": RUNNING})))
    columns = ("NAME", "MODEL", "STATE", "SINCE", "OWNER", "DETAIL")
    rows = [(e["name"], e["model"], e["state"], ago(e["state_since"]), e["owner"], _detail(e)) for e in shown]
    if not shown:
        screen.note("No engine runs." if not given.all else "There were no engines yet.")
    screen.table(columns, rows, shown)


def _detail(engine: Engine) -> str:
    return str(engine["cause"] or engine["detail"] or "")


def stop(given: Namespace, screen: Screen) -> None:
    portal = Portal(find(given))
    ended = []
    for name in given.names:
        engine = named(portal, name)
        if engine["state"] not in ENDED:
            at_once = {"now": "true"} if given.now else {}
            portal.ask("DELETE", f"{PATH}/{part(engine['id'])}", tries=3, params=at_once)
            engine = portal.ask("GET", f"{PATH}/{part(engine['id'])}", tries=3)
            if given.wait:
                engine = wait(portal, engine, screen, lambda state: False, given.timeout)
        ended.append(engine)
        if not screen.as_json:
            screen.text(f"{engine['name']} {engine['state']}")
    if screen.as_json:
        screen.data(ended)


def rm(given: Namespace, screen: Screen) -> None:
    """The portal keeps ended engines, for their logs and their costs; there is nothing left of them to remove."""
    portal = Portal(find(given))
    engines = [named(portal, name) for name in given.names]
    running = [engine["name"] for engine in engines if engine["state"] not in ENDED]
    if running and not given.force:
        raise Failure(f"{', '.join(running)} still runs: use `portal stop`, or `portal rm --force`.")
    stop(Namespace(**{**vars(given), "names": [engine["id"] for engine in engines]}), screen)
    screen.note("Ended engines take nothing. The portal keeps their names, logs and costs: `portal ps --all`.")


def named(portal: Portal, name: str) -> Engine:
    """By id, name, or model; of several the ones that have not ended, of those the latest. Raises Failure."""
    try:
        return portal.ask("GET", f"{PATH}/{uuid.UUID(name)}")
    except ValueError:
        pass
    for states in (RUNNING, ENDED):
        listed = portal.pages(PATH, state=states)
        found = [engine for engine in listed if name in (engine["name"], engine["model"])]
        if len(found) > 1 and states is RUNNING and name not in {engine["name"] for engine in found}:
            which = ", ".join(engine["name"] for engine in found)
            raise Failure(f"Several engines serve {name}: say which one, of {which}.", ExitCode.USAGE)
        if found:
            return max(found, key=lambda engine: engine["created_at"])
    raise Failure(f"There is no engine {name}: see `portal ps --all`.", ExitCode.NOT_FOUND)


def wait(portal: Portal, engine: Engine, screen: Screen, is_there: Callable[[str], bool], timeout_s: float) -> Engine:
    """Until `is_there(state)` or its end, telling each step. Raises Failure when the time is over."""
    deadline = time.monotonic() + timeout_s
    began, told, told_at = time.monotonic(), "", -_TELL_AGAIN_S
    spinner = screen.err.status("") if screen.is_live else nullcontext()
    with spinner as status:
        while True:
            step = f"{engine['state']}  {engine['detail'] or ''}".rstrip()
            if status is not None:
                status.update(Text(clean(f"{engine['name']}  {step}  ({time.monotonic() - began:.0f} s)")))
            elif step != told and (
                engine["state"] != told.partition(" ")[0] or time.monotonic() - told_at > _TELL_AGAIN_S
            ):
                screen.note(step)
                told, told_at = step, time.monotonic()
            if is_there(engine["state"]) or engine["state"] in ENDED:
                return engine
            if time.monotonic() > deadline:
                raise Failure(f"{engine['name']} is {engine['state']} after {timeout_s:.0f} s and goes on: portal ps")
            time.sleep(min(_LOOK_AGAIN_S, max(deadline - time.monotonic(), 0.05)))
            engine = portal.ask("GET", f"{PATH}/{part(engine['id'])}", tries=5)
