"""`manage.py import_legacy`: users and conversations of the service before the portal."""

import contextlib
import json
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vllm_portal.errors import OperatorError
from vllm_portal.legacy.report import Report
from vllm_portal.legacy.run import Advance, take_over

HELP = """\
Takes over users and conversations from the original's files, which are only read.

Stop the original first. The portal may be running. Run it again at any time, also after a run that was cut off: what is
there is found again and not doubled, and conversations that have grown in the files grow in the portal.

Users come with their password (bcrypt: it goes on working, and the next login gives it the portal's own hash), role,
disabled flag, token limits and token numbers. A user whom the portal has already keeps all of these, unless --update is
given; their conversations are added in any case. A conversation keeps its number, or gets the next free one where
another has it. Engines are not taken over: their containers are not the portal's.

exit codes:
  0  all was taken over
  1  some rows were not; the report says which and why
  2  a file or the portal's database cannot be used
"""


class _Help(RawDescriptionHelpFormatter):
    """Django's own would fill the lines."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)


class Command(BaseCommand):
    help = HELP
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, formatter_class=_Help, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--users", type=Path, required=True, metavar="FILE", help="the original's chat_bot_db.db")
        parser.add_argument("--memory", type=Path, metavar="FILE", help="the original's memory.db")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
        parser.add_argument("--update", action="store_true", help="overwrite password, role and so on of known users")
        parser.add_argument("--report", type=Path, metavar="FILE", help="write the whole report there, as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises OperatorError, which manage.py turns into exit code 2."""
        report = Report(dry_run=options["dry_run"])
        try:
            self._check_tables()
            with self._report_file(options["report"], report), _progress() as advance:
                take_over(
                    options["users"],
                    options["memory"],
                    report,
                    timezone.now(),
                    update=options["update"],
                    dry_run=options["dry_run"],
                    advance=advance,
                )
        except DatabaseError as error:
            self._say(report)
            cause = " ".join(str(error).split())
            raise OperatorError(
                f"the portal's database failed ({cause}): what the table counts is stored, run this again"
            ) from None
        self._say(report)
        if report.exit_code:
            sys.exit(report.exit_code)

    def _say(self, report: Report) -> None:
        for line in report.lines():
            self.stdout.write(line)

    def _check_tables(self) -> None:
        try:
            executor = MigrationExecutor(connection)
            missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
        except DatabaseError as error:
            raise OperatorError(f"the portal's database cannot be used: {' '.join(str(error).split())}") from None
        if missing:
            raise OperatorError("the portal's database is not up to date: run `manage.py setup` first")

    @contextlib.contextmanager
    def _report_file(self, path: Path | None, report: Report) -> Iterator[None]:
        """Opened first: an import of an hour whose report cannot be written would be a pity."""
        if path is None:
            yield
            return
        try:
            file = path.open("w")
        except OSError as error:
            raise OperatorError(f"{path} cannot be written: {error.strerror}") from None
        with file:
            try:
                yield
            finally:
                json.dump(report.as_json(), file, indent=1)


@contextlib.contextmanager
def _progress() -> Iterator[Advance]:
    """A bar on stderr where that is a terminal; else nothing."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("rows", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
