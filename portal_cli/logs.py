"""`logs`: what an engine says."""

import time
from argparse import Namespace

from portal_cli.credentials import find
from portal_cli.engines import PATH, named
from portal_cli.events import events, lines
from portal_cli.failures import ExitCode, Failure
from portal_cli.portal import Portal, part
from portal_cli.screen import Screen

_SILENCE_S = 90
"""More than the portal's heartbeats are apart."""
_TRIES = 5


def logs(given: Namespace, screen: Screen) -> None:
    portal = Portal(find(given))
    engine = named(portal, given.name)
    address = f"{PATH}/{part(engine['id'])}/logs"
    log = _Log(screen)
    try:
        if given.follow:
            _follow(portal, f"{address}/stream", given.tail, log)
        else:
            parameters = {} if given.tail is None else {"tail": given.tail}
            told = portal.send("GET", address, params=parameters, headers={"Accept": "text/plain, */*;q=0.1"})
            log.show(told.content.decode("utf-8", "replace"))
    finally:
        log.end()


class _Log:
    """Shows text that comes in pieces, which need not end where lines do."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._line = ""

    def show(self, text: str) -> None:
        *lines, rest = (self._line + text).split("\n")
        if self._screen.as_json:
            for line in lines:
                self._screen.line({"line": line})
        elif text:
            self._screen.text(text, end="")
        self._line = rest

    def end(self) -> None:
        """A last line without its end gets one."""
        if self._line:
            self.show("\n")

    def gap(self) -> None:
        self.end()
        self._screen.note("… something is missing here, or the log began anew …")


def _follow(portal: Portal, address: str, tail: int | None, log: _Log) -> None:
    """To the engine's end. A connection that breaks is taken up again where it broke."""
    last_id, failed = "", 0
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        try:
            for event in events(lines(portal.stream("GET", address, headers=headers, silence_s=_SILENCE_S))):
                failed = 0
                last_id = event.id or last_id
                if event.kind == "end":
                    return
                if event.kind == "gap":
                    log.gap()
                elif event.kind == "message":
                    log.show(event.data if tail is None else _last_lines(event.data, tail))
                    tail = None  # the first piece is all that there is so far
            failed += 1  # it ended without saying so, and is asked again
        except Failure as failure:
            failed += 1
            if failure.exit_code != ExitCode.UNREACHABLE or failed >= _TRIES:
                raise
        if failed >= _TRIES:
            raise Failure("The portal ends the log again and again.", ExitCode.UNREACHABLE)
        time.sleep(min(failed, 3) * 0.5)


def _last_lines(text: str, number: int) -> str:
    return "".join(text.splitlines(keepends=True)[-number:])
