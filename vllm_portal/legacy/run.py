"""One import from its beginning to its end."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from vllm_portal.errors import OperatorError
from vllm_portal.legacy import conversations, message_store, people
from vllm_portal.legacy.report import Report
from vllm_portal.legacy.source import Source

ENGINES = "vllm_engines"
OURS = (people.TABLE, conversations.TABLE, ENGINES)

Advance = Callable[[int, int], None]
"""Called with (rows done, rows in all) as the import goes on."""


def take_over(
    users: Path, memory: Path | None, report: Report, now: datetime, *, update: bool, dry_run: bool, advance: Advance
) -> None:
    """`memory` None: the messages may be in the first file, too.

    Raises OperatorError before anything is stored where a file is not the original's, and DatabaseError (Django's)
    where the portal's database fails: what was stored until then stays."""
    with Source(users, report) as source:
        if memory is None:
            held = source if message_store.TABLE in source.columns else None
            return _take_over(source, held, report, now, update=update, dry_run=dry_run, advance=advance)
        with Source(memory, report) as messages:
            if message_store.TABLE not in messages.columns:
                raise OperatorError(f"{memory} has no table {message_store.TABLE}: it is no memory.db of the original")
            return _take_over(source, messages, report, now, update=update, dry_run=dry_run, advance=advance)


def _take_over(
    source: Source,
    memory: Source | None,
    report: Report,
    now: datetime,
    *,
    update: bool,
    dry_run: bool,
    advance: Advance,
) -> None:
    if not set(OURS) & set(source.columns):
        raise OperatorError(
            f"{source.path} has none of the tables {', '.join(OURS)}: it is no database of the original"
        )
    for table in (people.TABLE, conversations.TABLE):
        report.tally(table)
        if table not in source.columns:
            report.note(table, None, "the file has no such table")
    total = source.count(people.TABLE) + source.count(conversations.TABLE)
    total += memory.count(message_store.TABLE) if memory else 0
    done = 0

    def go_on(rows: int = 1) -> None:
        nonlocal done
        done += rows
        advance(min(done, total), total)

    taken = people.People(report, now, update=update, dry_run=dry_run)
    taken.take_over(source, go_on)
    store = message_store.MessageStore(memory, report)
    conversations.Conversations(taken, store, report, now, dry_run=dry_run).take_over(source, go_on)
    store.report_rest()
    if engines := source.count(ENGINES):
        tally = report.tally(ENGINES)
        tally.read = tally.not_ours = engines
    advance(total, total)
