"""Generated requests against a whole portal: no answer is a server error, no endpoint forgets who asks, and nobody gets
at what another user made. ATTACK_EXAMPLES (for each operation) makes it longer."""

import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
import requests

from tests.journeys.portal_process import ADMIN_PASSWORD, PortalProcess

EXAMPLES = os.environ.get("ATTACK_EXAMPLES", "2")
SEED = "20261123"
LEFT_OUT = (
    "/token/logout/",  # the attacker would be refused everywhere from then on and learn nothing
    "/api/v1/engines/{id}/logs/stream/",  # goes on as long as the engine lives
)
ONLY_ADMINS = 19
"""Operations at which a user gets nothing but 403."""


@pytest.fixture
def portal(tmp_path_factory):
    """One for each attacker: an admin locks the other users out."""
    directory = tmp_path_factory.mktemp("attack")
    (directory / "hf/hub/models--acme--cached").mkdir(parents=True)
    process = PortalProcess(
        directory, launcher="simulator", engines_per_user=1, start_wait_seconds=1,
        stop_wait_seconds=1, stop_engines_on_exit=1,
    )  # fmt: skip
    process.start()
    yield process
    process.stop()


@pytest.fixture
def identities(portal, tmp_path):
    """A file that names alice, bob and the admin with their tokens, as the attacker knows them."""

    def token(username: str, password: str) -> str:
        answer = requests.post(f"{portal.url}/token", json={"username": username, "password": password}, timeout=10)
        return answer.json()["access_token"]

    tokens = {"admin": token("admin", ADMIN_PASSWORD)}
    for name in ("alice", "bob"):
        body = {"username": name, "password": "correct horse", "gen_token_limit": 10**9, "prompt_token_limit": 10**9}
        headers = {"Authorization": f"Bearer {tokens['admin']}"}
        answer = requests.post(f"{portal.url}/db_request/add_user/", json=body, headers=headers, timeout=10)
        assert answer.status_code == 200, answer.text
        tokens[name] = token(name, "correct horse")
    entries = [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {clear}"}]}
        for name, clear in tokens.items()
    ]
    path = tmp_path / "identities.json"
    path.write_text(json.dumps({"auth": entries}))
    return path


@pytest.fixture
def attack(portal, identities, tmp_path):
    """attack(who, checks, **settings): what schemathesis says, and the answers' statuses with how many there were."""

    def run(who: str, checks: str, **settings: object) -> tuple[str, Counter]:
        config = tmp_path / "schemathesis.toml"
        auth = {"path": str(identities), "user": who, **settings}
        config.write_text("[auth.wfc]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in auth.items()))
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run", f"{portal.url}/api/schema/",
            "--checks", checks, "--seed", SEED, "--max-examples", EXAMPLES, "--generation-database", "none",
            "--no-color", "--continue-on-failure", "--request-timeout", "30",
            *(f"--exclude-path={path}" for path in LEFT_OUT), "--report", "har", "--report-dir", tmp_path / "report",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=3000, cwd=tmp_path)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said[-8000:]
        (report,) = (tmp_path / "report").iterdir()
        entries = json.loads(report.read_text())["log"]["entries"]
        return said, Counter(entry["response"]["status"] for entry in entries)

    return run


def test_a_user_reaches_nothing_of_another_one(attack):
    said, statuses = attack(
        "alice", "not_a_server_error,ignored_auth,object_level_authorization", peers=["alice", "bob"]
    )
    assert_it_was_an_attack(statuses)
    assert re.findall(r"403 Forbidden \((\d+) operations\)", said) == [str(ONLY_ADMINS)]


def test_an_admin_breaks_nothing(attack):
    said, statuses = attack("admin", "not_a_server_error,ignored_auth")
    assert_it_was_an_attack(statuses)
    assert "403 Forbidden (" not in said


def assert_it_was_an_attack(statuses: Counter) -> None:
    print(f"{statuses.total()} requests: {dict(statuses)}")
    assert statuses.total() > 2000
    assert statuses[200] + statuses[201] > statuses.total() / 10, "most of it was refused at the door"
