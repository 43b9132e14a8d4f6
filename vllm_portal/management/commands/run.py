"""`manage.py run`: the whole portal in the foreground."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from vllm_portal import flags, supervisor


class Command(BaseCommand):
    help = "Starts the portal (Redis, web server, worker, beat) in the foreground; Ctrl-C stops it."
    requires_system_checks = ()  # they cost a second and say nothing about this machine

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, allow_abbrev=False, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        flags.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """The flags already count: manage.py applied them before the settings were read."""
        sys.exit(supervisor.run())
