"""The whole way from a terminal, on a real portal with the stand-in engine."""

import json
from dataclasses import dataclass

import pytest

from tests.cli.conftest import Cli
from tests.journeys.portal_process import PortalProcess

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def portal(tmp_path_factory):
    directory = tmp_path_factory.mktemp("portal")
    portal = PortalProcess(directory, launcher="simulator", stop_engines_on_exit="true", reconcile_seconds=0.5).start()
    yield portal
    portal.stop()


@dataclass
class Person(Cli):
    username: str = ""

    def log_in(self, portal: PortalProcess, password: str = PASSWORD) -> int:
        return self("login", "--url", portal.url, "--username", self.username, typed=f"{password}\n").returncode


@pytest.fixture
def person(portal, tmp_path, request):
    """person(name): the terminal of somebody new, logged in. No other test's engines and keys are theirs."""

    def log_in(name: str) -> Person:
        home = tmp_path / name
        home.mkdir()
        person = Person(home, username=f"{name}.{request.node.name}"[:100])
        portal.admin().add_user(person.username, PASSWORD, gen_token_limit=300)
        assert person.log_in(portal) == 0
        return person

    return log_in


def given(cli: Cli, *arguments: object):
    done = cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_engine_from_its_launch_to_its_end(person, portal):
    alice, bob = person("alice"), person("bob")
    launched = alice("launch", "some-org/some-model", "--max-model-len", "2048", "--wait", "--timeout", "60")
    assert launched.returncode == 0, launched.stderr + portal.console()
    name = launched.stdout.strip()
    assert launched.stderr.splitlines()[-2:][0] == "READY"

    (running,) = given(alice, "ps")
    assert (running["name"], running["state"], running["model"]) == (name, "READY", "some-org/some-model")
    assert given(bob, "ps") == []
    assert bob("stop", name).returncode == 4
    assert [one["engines"] for one in given(alice, "models")] == [[name]]

    assert "simulated" in alice("chat", "-m", "Hello", "--max-tokens", "12").stdout
    assert given(alice, "chat", "-m", "Hello", "--max-tokens", "5")["usage"]["completion_tokens"] == 5
    assert alice("chat", "--new", "-m", "I am Alice.", "--max-tokens", "5").returncode == 0
    assert alice("chat", "--memory", "-m", "Who am I?", "--max-tokens", "5").returncode == 0
    assert alice("chat", "--conversation", "1", "-m", "Who?", "--max-tokens", "5").returncode == 0
    assert alice("chat", "--conversation", "2", "-m", "Who?").returncode == 4
    too_much = alice("chat", "-m", "Go on.", "--max-tokens", "100000")
    assert too_much.returncode in (0, 1)

    assert given(alice, "doctor")[-1]["mark"] == "ok"

    assert "simulated" in alice("logs", name).stdout.lower()
    follower = alice.start("logs", "-f", name, stdout=-1, stderr=-1)
    assert follower.stdout.read(20)
    assert alice("stop", name).stdout == f"{name} STOPPED\n"
    _, told = follower.communicate(timeout=60)
    assert (follower.returncode, told) == (0, b""), "the log ends with the engine"
    assert alice("rm", name).returncode == 0
    assert given(alice, "ps") == []
    assert [one["state"] for one in given(alice, "ps", "--all")] == ["STOPPED"]


def test_a_recipe_with_an_adapter_is_kept_and_started_again(person, portal):
    alice, bob = person("alice"), person("bob")
    options = ("--seed", "7", "--adapter", "sql=acme/tiny-sql", "--max-model-len", "1024")
    launched = alice("launch", "acme/tiny", *options, "--wait", "--timeout", "60")
    assert launched.returncode == 0, launched.stderr + portal.console()
    name = launched.stdout.strip()
    full = "acme/tiny:acme/tiny-sql"
    assert {one["id"] for one in given(alice, "models")} == {"acme/tiny", full, "sql"}
    assert given(alice, "chat", "sql", "-m", "Hello", "--max-tokens", "5")["model"] == "sql"
    assert alice("recipes", "save", "exam", name, "--notes", "for the exam").stdout == "exam\n"
    assert given(bob, "recipes") == []
    assert bob("launch", "--recipe", "exam").returncode == 4
    assert alice("recipes", "save", "exam", name).returncode == 1

    again = alice("launch", "--recipe", "exam", "--lease-hours", "1", "--wait", "--timeout", "60")
    assert again.returncode == 0, again.stderr + portal.console()
    first, second = sorted(given(alice, "ps"), key=lambda engine: engine["created_at"])
    for option in ("model", "revision", "seed", "max_model_len", "adapters"):
        assert first[option] == second[option]
    assert (second["recipe"], second["name"]) == ("exam", again.stdout.strip())
    (recipe,) = given(alice, "recipes")
    assert recipe["measured"]["starts"] == 2
    assert recipe["vllm_version"] == "0.32.0-simulated"
    assert alice("recipes", "rm", "exam").returncode == 0
    assert alice("stop", first["name"], second["name"]).returncode == 0


def test_what_was_spent_shows(person, portal):
    carol = person("carol")
    name = carol("launch", "some-org/carols-model", "--wait", "--timeout", "60").stdout.strip()
    assert carol("chat", "some-org/carols-model", "-m", "Hello", "--max-tokens", "5").returncode == 0

    def spent() -> list[tuple[str, int]]:
        groups = given(carol, "usage", "--by", "model")["summary"]
        return [(group["group"], group["generated_tokens"]) for group in groups]

    portal.wait_for(lambda: spent() == [("some-org/carols-model", 5)], 15, "the request's record")
    limits = [line.split() for line in carol("usage").stdout.splitlines()]
    assert ["you:", "generated", "tokens", "5", "300", "295"] in limits
    assert carol("stop", name).returncode == 0


def test_a_launch_that_fails_says_what_to_do(person):
    alice = person("alice")
    done = alice("launch", "/etc", "--wait", "--timeout", "60")
    assert done.returncode == 1
    assert done.stderr.startswith("portal: ")


def test_keys(person, portal):
    alice, bob = person("alice"), person("bob")
    clear = alice("keys", "make", "ci", "--days", "30", "--gen-token-limit", "7").stdout.strip()
    assert clear.startswith("sk-")
    assert {"ci"} < {one["name"] for one in given(alice, "keys", "list")}
    assert "ci" not in {one["name"] for one in given(bob, "keys", "list")}
    as_program = ("--url", portal.url, "--key", clear)
    assert alice("models", *as_program).returncode == 0
    assert alice("keys", "make", "more", *as_program).returncode == 3, "a key for inference makes no keys"
    assert bob("keys", "revoke", "ci").returncode == 4
    assert alice("keys", "revoke", "ci").returncode == 0
    assert alice("models", *as_program).returncode == 3
    assert "ci" in {one["name"] for one in given(alice, "keys", "list", "--all")}


def test_a_login_leaves_one_key_and_a_logout_none(person, portal):
    alice = person("alice")
    mine = {one["id"] for one in given(alice, "keys", "list")}
    assert alice.log_in(portal) == 0
    now = {one["id"] for one in given(alice, "keys", "list")}
    assert (len(now), len(mine - now), len(now - mine)) == (len(mine), 1, 1)
    assert alice.log_in(portal, "wrong") == 3
    assert alice("logout").returncode == 0
    assert alice("keys", "list").returncode == 3
