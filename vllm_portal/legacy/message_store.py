"""The original's `message_store`: the messages of all conversations in one table, without an index."""

import uuid
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from vllm_portal.legacy import messages, values
from vllm_portal.legacy.report import Report
from vllm_portal.legacy.source import Source, Unreadable

TABLE = "message_store"


class Spoken(NamedTuple):
    """One message, and where it is in the files."""

    table: str
    rowid: int
    role: str
    text: str


def said(spoken: Iterable[Spoken]) -> list[messages.Said]:
    return [(one.role, one.text) for one in spoken]


def session_key(session: str) -> str:
    """The same for each way to write one UUID."""
    try:
        return str(uuid.UUID(session))
    except ValueError:
        return session


class MessageStore:
    """Keeps only where each session's messages are; their texts are read when they are asked for."""

    def __init__(self, source: Source | None, report: Report) -> None:
        self._source, self._report = source, report
        self._rows: dict[str, list[int]] = defaultdict(list)
        for row in source.rows(TABLE, without="message") if source else ():
            report.tally(TABLE).read += 1
            try:
                session = (values.text(row.first("session_id")) or "").strip()
            except Unreadable as error:
                report.skip(TABLE, row.rowid, f"session_id {error}")
                continue
            if session:
                self._rows[session_key(session)].append(row.rowid)
            else:
                report.skip(TABLE, row.rowid, "has no session_id")

    def take(self, session: str) -> list[Spoken]:
        """A session's messages in order, to be had once. One that cannot be read is reported and left out."""
        found = []
        for rowid in self._rows.pop(session_key(session), ()):
            try:
                written = values.text(self._source.value(TABLE, "message", rowid))
                role, text = messages.said(messages.from_json(written))
            except Unreadable as error:
                self._report.skip(TABLE, rowid, f"message {error}")
            else:
                found.append(Spoken(TABLE, rowid, role, text))
        return found

    def report_rest(self) -> None:
        """What nobody took."""
        for rowids in self._rows.values():
            for rowid in rowids:
                self._report.skip(TABLE, rowid, "session_id is that of no conversation that was taken over")
        self._rows.clear()
