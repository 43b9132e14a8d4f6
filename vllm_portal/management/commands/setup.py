"""`manage.py setup`: what must be done once before the processes are started one by one (see docker-compose.yml)."""

from typing import Any

from django.core.management.base import BaseCommand

from vllm_portal import preparation


class Command(BaseCommand):
    help = "Migrates the database and makes the first admin. Does nothing the second time."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        admin = preparation.prepare()
        if admin.password:
            self.stdout.write(f"admin {admin.username}, password {admin.password} (shown this once)")
