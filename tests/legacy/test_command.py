"""The command as an operator runs it: a process with a database of its own, exit codes, what is on the screen."""

import json
import os
import pty
import subprocess
import sys

import pytest

from vllm_portal.config import PROJECT_ROOT


@pytest.fixture(scope="module")
def manage(tmp_path_factory):
    """manage(*arguments): runs manage.py on a fresh portal."""
    directory = tmp_path_factory.mktemp("portal")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
    environment = {**kept, "PORTAL_DATA_DIR": str(directory), "PORTAL_CONFIG": str(directory / "none.yaml")}

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.run(
            command, cwd=PROJECT_ROOT, env=environment, text=True, timeout=120, check=False, **options
        )

    return run


def test_exit_codes_and_output(manage, original, tmp_path):
    flags = ("import_legacy", "--users", original.users, "--memory", original.memory)
    early = manage(*flags)
    assert (early.returncode, early.stdout) == (2, "")
    assert early.stderr == "portal: the portal's database is not up to date: run `manage.py setup` first\n"
    assert manage("setup").returncode == 0

    talk = original.add_conversation(original.add_user("ann"), 1, ("human", "hello"), ("ai", "hi"))
    whole = manage(*flags)
    assert (whole.returncode, whole.stderr) == (0, ""), "no bar where there is no terminal, no Redis needed"
    assert "\x1b" not in whole.stdout
    assert whole.stdout.splitlines()[3].split() == ["message_store", "2", "2", "0", "0", "0", "0"]

    for number in range(30):
        original.insert("message_store", session_id=talk, message=f"secret {number}")
    partly = manage(*flags, "--report", tmp_path / "report.json")
    assert partly.returncode == 1
    assert "message_store row 3: message is not JSON" in partly.stdout
    assert "… message_store: message is not JSON (10 more)" in partly.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["exit_code"], len(report["problems"])) == (1, 30)
    assert "secret" not in partly.stdout + (tmp_path / "report.json").read_text()

    for wrong in (["--report", tmp_path / "no" / "folder"], ["--memory", tmp_path / "nothing"]):
        refused = manage(*flags, *wrong)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith("portal: ")
        assert "No such file or directory" in refused.stderr

    primary, secondary = pty.openpty()
    try:
        manage(*flags, stderr=secondary, stdin=subprocess.DEVNULL)
        os.set_blocking(primary, False)
        assert "rows" in os.read(primary, 65536).decode(), "a bar on a terminal"
    finally:
        os.close(primary)
        os.close(secondary)


def test_the_help_says_what_happens_to_users_who_are_there(manage):
    told = manage("import_legacy", "--help").stdout
    assert "A user whom the portal has already keeps all of these" in " ".join(told.split())
