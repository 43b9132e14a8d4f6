#!/usr/bin/env python
"""Django's command line for the portal: `manage.py run` starts all of it."""

import os
import sys

from vllm_portal.config import ConfigError


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vllm_portal.settings")
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ConfigError as error:
        print(f"portal: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
