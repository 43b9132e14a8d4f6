"""`manage.py audit`: whether the ledger is what it must be. Exit code 1 where it is not."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

import redis
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from inference.audit import audit


class Command(BaseCommand):
    help = (
        "Compares live counters, reservations, usage records, their sums, the engines' own counters and the logs. "
        "Reads only; the portal may work on meanwhile. Exit code 1: something is broken, and is named; 2: it could not "
        "look."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the findings as a JSON array")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            findings = audit()
        except (redis.RedisError, DatabaseError) as error:
            raise CommandError(f"the ledger cannot be read: {error}", returncode=2) from None
        if options["json"]:
            self.stdout.write(json.dumps([finding._asdict() for finding in findings], indent=2))
        else:
            for finding in findings:
                self.stdout.write(f"{finding.rule}: {finding.about}: {finding.text}")
            self.stdout.write(f"{len(findings)} broken" if findings else "all is as it must be")
        if findings:
            sys.exit(1)
