"""Logging in makes a key; the key is kept for its owner alone and goes to its portal alone."""

import json
import stat

import pytest

from tests.cli.conftest import KEY

MADE = {"id": 7, "name": "portal on x", "key": KEY}


@pytest.fixture
def portal(stand_in):
    stand_in.on("POST /token", {"username": "alice", "access_token": "an.access.token", "token_type": "bearer"})
    stand_in.on("POST /api/v1/keys", MADE, 201)
    stand_in.on("DELETE /api/v1/keys/7", None, 204)
    stand_in.on("GET /v1/models", {"data": []})
    return stand_in


def log_in(cli, portal, *flags):
    return cli("login", "--url", portal.url, "--username", "alice", *flags, typed="correct horse\n")


def kept(cli):
    return cli.home / ".config" / "vllm-portal" / "credentials.json"


def test_the_password_becomes_a_key(cli, portal):
    done = log_in(cli, portal, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"url": portal.url, "username": "alice", "key_id": "7"})
    token, made = portal.asked
    assert (token.path, token.body) == ("/token", {"username": "alice", "password": "correct horse"})
    assert "authorization" not in token.headers
    assert made.headers["authorization"] == "Bearer an.access.token"
    assert set(made.body["scopes"]) == {"inference", "management", "read-only"}
    assert cli("models").returncode == 0
    assert portal.asked[-1].headers["authorization"] == f"Bearer {KEY}"
    assert "correct horse" not in kept(cli).read_text()


def test_nobody_else_can_read_the_key(cli, portal):
    kept(cli).parent.parent.mkdir(parents=True)
    log_in(cli, portal)
    assert stat.S_IMODE(kept(cli).stat().st_mode) == 0o600
    assert stat.S_IMODE(kept(cli).parent.stat().st_mode) == 0o700
    assert [file.name for file in kept(cli).parent.iterdir()] == ["credentials.json"]


def test_it_is_kept_where_xdg_says(cli, portal, tmp_path):
    cli.variables["XDG_CONFIG_HOME"] = str(tmp_path / "elsewhere")
    assert log_in(cli, portal).returncode == 0
    assert (tmp_path / "elsewhere" / "vllm-portal" / "credentials.json").exists()
    assert not kept(cli).exists()


def test_a_wrong_password_changes_nothing(cli, portal, stand_in):
    log_in(cli, portal)
    before = kept(cli).read_text()
    stand_in.on("POST /token", {"detail": "Incorrect username or password"}, 401)
    assert log_in(cli, portal).returncode == 0  # the answer from before, once more
    done = log_in(cli, portal)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "portal: Incorrect username or password\n"
    assert kept(cli).read_text() == before


def test_the_key_from_before_is_revoked(cli, portal):
    log_in(cli, portal)
    portal.on("POST /api/v1/keys", {"id": 8, "key": "sk-second"}, 201)
    log_in(cli, portal)
    log_in(cli, portal)
    revoked = portal.asked_for("DELETE /api/v1/keys/7")
    assert len(revoked) == 1
    assert revoked[0].headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(kept(cli).read_text())["key"] == "sk-second"


def test_a_key_that_somebody_has_already(cli, portal):
    portal.on("GET /api/v1/key", {"username": "alice", "role": "User", "key": {}})
    done = cli("login", "--url", portal.url, "--with-key", typed="sk-mine\n")
    assert (done.returncode, done.stdout) == (0, f"Logged in at {portal.url} as alice.\n")
    assert cli("logout").returncode == 0
    assert not any(asked.method == "DELETE" for asked in portal.asked), "a key that we did not make is not ours to end"


def test_logging_out_revokes_and_forgets(cli, portal):
    log_in(cli, portal)
    assert cli("logout").stdout == f"Logged out at {portal.url}.\n"
    assert len(portal.asked_for("DELETE /api/v1/keys/7")) == 1
    assert cli("models").returncode == 3
    assert cli("logout").stdout == "You were not logged in.\n"


def test_logging_out_forgets_also_when_the_portal_is_away(cli, portal):
    log_in(cli, portal)
    kept(cli).write_text(kept(cli).read_text().replace(portal.url, "http://127.0.0.1:1"))
    done = cli("logout")
    assert (done.returncode, kept(cli).exists()) == (6, False)
    assert "still counts at" in done.stderr


def test_a_stored_key_goes_to_no_other_portal(cli, portal):
    log_in(cli, portal)
    before = len(portal.asked)
    other = portal.url.replace("127.0.0.1", "localhost")
    done = cli("models", "--url", other)
    assert (done.returncode, len(portal.asked)) == (3, before)
    assert "not at" in done.stderr
    assert cli("models", "--url", portal.url + "/v1/").returncode == 0, "the same portal, written as for OpenAI's"


def test_flags_are_stronger_than_the_environment_and_that_than_the_login(cli, portal):
    log_in(cli, portal)
    cli.variables["PORTAL_KEY"] = "sk-environment"
    cli("models")
    cli("--key", "sk-flag", "models")
    cli("models", "--key", "sk-flag")
    sent = [asked.headers["authorization"] for asked in portal.asked_for("GET /v1/models")]
    assert sent == ["Bearer sk-environment", "Bearer sk-flag", "Bearer sk-flag"]


def test_with_nobody_to_ask_a_login_says_what_is_missing(cli, portal):
    assert "--url" in cli("login").stderr
    assert "--username" in cli("login", "--url", portal.url).stderr
    assert cli("login", "--url", portal.url, "--username", "alice").returncode == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "http://x"}'])
def test_a_damaged_file_asks_for_a_new_login(cli, portal, text):
    kept(cli).parent.mkdir(parents=True)
    kept(cli).write_text(text)
    done = cli("models")
    assert (done.returncode, "log in again" in done.stderr) == (3, True)
    assert log_in(cli, portal).returncode == 0
    assert cli("models").returncode == 0
