"""The flags of `manage.py run`: one for each setting that is no secret (a command line is visible to everybody).

A flag becomes the setting's environment variable, so that the processes which `run` starts have it too.
"""

import argparse

from pydantic import SecretStr

from vllm_portal.config import Config, hand_on

SETTINGS = {
    name: field.description
    for name, field in Config.model_fields.items()
    if field.annotation not in (SecretStr, SecretStr | None)
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings", "Stronger than the environment, which is stronger than the file.")
    for name, description in SETTINGS.items():
        text = (description or "").replace("%", "%%")
        group.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="VALUE", help=text)


def apply(arguments: list[str]) -> None:
    """Makes the flags among `arguments` count. What is no flag of ours is left for Django to judge."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_arguments(parser)
    try:
        given, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return  # Django's parser meets the same mistake and explains it
    hand_on({name: value for name, value in vars(given).items() if value is not None})
