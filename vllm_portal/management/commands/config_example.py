"""`manage.py config_example`: writes the example of the config file and its JSON schema anew."""

from typing import Any

from django.core.management.base import BaseCommand

from vllm_portal import config_example


class Command(BaseCommand):
    help = "Writes cluster_config.example.yaml and docs/cluster_config.schema.json from the settings."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        for path, text in config_example.files().items():
            path.write_text(text)
            self.stdout.write(str(path))
