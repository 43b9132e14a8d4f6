#!/usr/bin/env python
"""Django's command line for the portal: `manage.py run` starts all of it."""

import os
import sys

from vllm_portal import flags
from vllm_portal.config import ConfigError
from vllm_portal.errors import OperatorError


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vllm_portal.settings")
    from django.core.management import execute_from_command_line

    try:
        if sys.argv[1:2] == ["run"]:
            flags.apply(sys.argv[2:])  # now: Django reads the settings before it hands flags to the command
        execute_from_command_line(sys.argv)
    except (ConfigError, OperatorError) as error:
        print(*(f"portal: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
