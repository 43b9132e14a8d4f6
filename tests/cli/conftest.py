import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cli.stand_in import StandIn
from vllm_portal.config import PROJECT_ROOT

KEY = "sk-test-0123456789abcdef"


@dataclass
class Cli:
    """The command line as a process, with a home of its own."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PORTAL_", "XDG_"))}
        return {**kept, "HOME": str(self.home), "PYTHONPATH": str(PROJECT_ROOT), **self.variables}

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-W", "error", "-m", "portal_cli"]

    def __call__(self, *arguments: object, typed: str = "", **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *map(str, arguments)], cwd=self.home, env=self.environment, input=typed, text=True,
            capture_output=True, timeout=60, check=False, **options,
        )  # fmt: skip

    def start(self, *arguments: object, **options) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self.command, *map(str, arguments)], cwd=self.home, env=self.environment, **options)


@pytest.fixture
def cli(tmp_path):
    """cli(*arguments, typed=…): runs `portal`; nobody is logged in."""
    return Cli(tmp_path)


@pytest.fixture
def stand_in():
    server = StandIn()
    yield server
    server.stop()


@pytest.fixture
def at_stand_in(cli, stand_in):
    """cli, with the stand-in's URL and a key in the environment."""
    cli.variables |= {"PORTAL_URL": stand_in.url, "PORTAL_KEY": KEY}
    return cli
