"""What every launcher keeps to, whatever it runs engines with. Each launcher's own test file inherits the class.

A rig says how to make the launcher under test, for which portal, and what its engines look like from outside.
"""

import json
import threading
import time
import urllib.request
import uuid
from typing import Any, Protocol

import pytest

from engines.errors import StartFailed
from engines.launchers.base import Launcher, LaunchSpec, Observation, Status
from tests.waiting import wait_until

ENGINE_KEY = "key-of-the-engine-93f1"
HF_TOKEN = "hf_tokenOfSomebody93f1"


class Rig(Protocol):
    portal_id: str
    other_portal_id: str

    def launcher(self, portal_id: str | None = None) -> Launcher:
        """A new one, as after a restart of the portal; by default this rig's portal's."""

    def spec(self, **changes: Any) -> LaunchSpec:
        """An engine that runs the fake engine."""

    def identity(self, name: str) -> str:
        """Of the process or container that runs: another one has another identity."""

    def kill(self, name: str) -> None:
        """SIGKILL to all of it, from outside."""

    def is_alive(self, name: str) -> bool:
        """Whether anything of it runs."""

    def in_plain_sight(self, name: str) -> str:
        """All that other people of this machine can see of it."""


def new_name() -> str:
    return f"vllm-portal-test-{uuid.uuid4().hex[:12]}-1"


def ask(observation: Observation) -> dict[str, Any]:
    """What the fake engine says of itself, once it listens."""

    def answer() -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"http://{observation.host}:{observation.port}/", timeout=5) as response:
                return json.load(response)
        except OSError:
            return None

    return wait_until(answer, "an answer of the fake engine")


def ended(launcher: Launcher, name: str) -> Observation:
    def look() -> Observation | None:
        observation = launcher.poll(name)
        return observation if observation.status is Status.EXITED else None

    return wait_until(look, f"{name} exited")


class LauncherContract:
    """The module that inherits this has a fixture `rig`, which ends what is left of its engines."""

    def test_a_started_engine_runs_at_an_address_and_has_what_it_was_given(self, rig: Rig) -> None:
        launcher = rig.launcher()
        spec = rig.spec(
            argv=["m", "--served-model-name", "two words", "$(id)"],
            env={"HF_HUB_OFFLINE": "1"}, engine_key=ENGINE_KEY, hf_token=HF_TOKEN,
        )  # fmt: skip
        launcher.prepare(spec, lambda line: None)
        observation = launcher.start(spec)
        assert observation.status is Status.RUNNING
        assert observation.container_id
        seen = ask(observation)
        assert seen["argv"][:4] == ["m", "--served-model-name", "two words", "$(id)"]
        assert seen["environment"]["HF_HUB_OFFLINE"] == "1"
        assert seen["environment"]["VLLM_API_KEY"] == ENGINE_KEY
        assert seen["token"] == HF_TOKEN
        assert not [name for name in seen["environment"] if name.startswith("PORTAL_")]
        assert launcher.poll(spec.name) == observation

    def test_neither_key_nor_token_is_in_plain_sight(self, rig: Rig) -> None:
        launcher, spec = rig.launcher(), rig.spec(engine_key=ENGINE_KEY, hf_token=HF_TOKEN)
        seen = ask(launcher.start(spec))
        assert HF_TOKEN not in json.dumps([seen["argv"], seen["environment"]])
        assert ENGINE_KEY not in json.dumps(seen["argv"])
        assert spec.name in rig.in_plain_sight(spec.name)
        assert HF_TOKEN not in rig.in_plain_sight(spec.name)

    def test_without_a_token_the_engine_finds_none_of_the_portals_own_user(self, rig: Rig) -> None:
        seen = ask(rig.launcher().start(rig.spec()))
        assert seen["environment"]["HF_TOKEN_PATH"]
        assert seen["token"] is None
        assert "HF_TOKEN" not in seen["environment"]

    def test_a_second_start_adopts(self, rig: Rig) -> None:
        launcher, spec = rig.launcher(), rig.spec()
        first = launcher.start(spec)
        before = rig.identity(spec.name)
        assert launcher.start(spec) == first
        assert rig.identity(spec.name) == before

    def test_two_starts_at_once_make_one_engine(self, rig: Rig) -> None:
        for _ in range(3):
            spec, results, barrier = rig.spec(), [], threading.Barrier(4)

            def start(spec=spec, results=results, barrier=barrier) -> None:
                launcher = rig.launcher()
                barrier.wait()
                try:
                    results.append(launcher.start(spec))
                except Exception as error:
                    results.append(error)

            threads = [threading.Thread(target=start) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(timeout=60)
            assert [getattr(result, "status", result) for result in results] == [Status.RUNNING] * 4
            assert len({(result.container_id, result.port) for result in results}) == 1
            assert len(rig.launcher().list()) == 1
            rig.launcher().stop(spec.name, 0)

    def test_a_restarted_portal_adopts_polls_and_stops(self, rig: Rig) -> None:
        spec = rig.spec()
        observation = rig.launcher().start(spec)
        ask(observation)
        again = rig.launcher()
        assert again.poll(spec.name) == observation
        assert again.start(spec) == observation
        again.stop(spec.name, 5)
        assert not rig.is_alive(spec.name)
        assert again.poll(spec.name).status is Status.GONE

    def test_a_crash_is_seen_with_its_code_and_its_log_also_after_stop(self, rig: Rig) -> None:
        launcher, spec = rig.launcher(), rig.spec(env={"FAKE_EXIT": "3"})
        launcher.start(spec)
        observation = ended(launcher, spec.name)
        assert observation.exit_code == 3
        assert not observation.oom_killed
        assert "ValueError: told to exit" in launcher.logs(spec.name)
        assert launcher.start(spec).status is Status.EXITED, "an engine is never revived"
        assert launcher.logs(spec.name).count("first line") == 1
        launcher.stop(spec.name, 5)
        assert launcher.poll(spec.name).status is Status.GONE
        assert "ValueError: told to exit" in launcher.logs(spec.name)
        assert launcher.list() == []

    def test_an_engine_killed_from_outside_is_seen_as_ended(self, rig: Rig) -> None:
        launcher, spec = rig.launcher(), rig.spec()
        ask(launcher.start(spec))
        rig.kill(spec.name)
        assert ended(launcher, spec.name).exit_code in (None, 137)

    def test_stop_ends_it_and_says_so_only_when_it_is_dead(self, rig: Rig) -> None:
        launcher, spec = rig.launcher(), rig.spec()
        ask(launcher.start(spec))
        began = time.monotonic()
        launcher.stop(spec.name, 60)
        assert time.monotonic() - began < 45, "it ends by itself when asked to"
        assert not rig.is_alive(spec.name)
        assert launcher.poll(spec.name).status is Status.GONE
        assert "fake engine: listening" in launcher.logs(spec.name)

    def test_stop_of_what_is_gone_or_never_was_is_success(self, rig: Rig) -> None:
        launcher, spec = rig.launcher(), rig.spec()
        launcher.stop(spec.name, 1)
        launcher.start(spec)
        launcher.stop(spec.name, 1)
        launcher.stop(spec.name, 1)

    def test_two_stops_at_once_are_both_success(self, rig: Rig) -> None:
        spec, failures = rig.spec(env={"FAKE_IGNORE_TERM": "1"}), []
        ask(rig.launcher().start(spec))

        def stop() -> None:
            try:
                rig.launcher().stop(spec.name, 1)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=stop) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert failures == []
        assert not rig.is_alive(spec.name)

    def test_stop_of_one_that_ignores_sigterm_kills_it_after_the_grace(self, rig: Rig) -> None:
        launcher, spec = rig.launcher(), rig.spec(env={"FAKE_IGNORE_TERM": "1"})
        ask(launcher.start(spec))
        began = time.monotonic()
        launcher.stop(spec.name, 1)
        assert time.monotonic() - began >= 1
        assert not rig.is_alive(spec.name)

    def test_stop_takes_what_outlives_its_parent(self, rig: Rig) -> None:
        launcher, spec = rig.launcher(), rig.spec(env={"FAKE_WORKER": "1"})
        ask(launcher.start(spec))
        launcher.stop(spec.name, 5)
        assert not rig.is_alive(spec.name)

    def test_list_shows_this_portals_engines_alone(self, rig: Rig) -> None:
        launcher, other = rig.launcher(), rig.launcher(rig.other_portal_id)
        mine, theirs = rig.spec(), rig.spec(portal_id=rig.other_portal_id)
        launcher.start(mine)
        other.start(theirs)
        assert [(found.name, found.engine_id, found.generation, found.status) for found in launcher.list()] == [
            (mine.name, mine.engine_id, 1, Status.RUNNING)
        ]
        assert [found.name for found in other.list()] == [theirs.name]

    def test_another_portals_engine_of_that_name_is_not_touched(self, rig: Rig) -> None:
        launcher, other = rig.launcher(), rig.launcher(rig.other_portal_id)
        theirs = rig.spec(portal_id=rig.other_portal_id)
        ask(other.start(theirs))
        assert launcher.poll(theirs.name).status is Status.GONE
        assert launcher.logs(theirs.name) == ""
        assert launcher.log_size(theirs.name) == 0
        launcher.stop(theirs.name, 1)
        with pytest.raises(StartFailed) as caught:
            launcher.start(rig.spec(name=theirs.name))
        assert caught.value.code == "name_taken"
        assert caught.value.advice
        assert other.poll(theirs.name).status is Status.RUNNING

    def test_another_generation_of_that_name_is_not_adopted(self, rig: Rig) -> None:
        launcher, spec = rig.launcher(), rig.spec()
        launcher.start(spec)
        with pytest.raises(StartFailed) as caught:
            launcher.start(rig.spec(name=spec.name, engine_id=spec.engine_id, generation=2))
        assert caught.value.code == "name_taken"
        assert launcher.poll(spec.name).status is Status.RUNNING

    def test_the_log_grows_and_a_long_one_is_read_at_its_two_ends(self, rig: Rig) -> None:
        launcher, spec = rig.launcher(), rig.spec(env={"FAKE_LOG_BYTES": "500000"})
        assert launcher.log_size(spec.name) == 0
        assert launcher.logs(spec.name) == ""
        observation = launcher.start(spec)
        wait_until(lambda: launcher.log_size(spec.name) > 0, "a log")
        ask(observation)
        log = launcher.logs(spec.name, max_bytes=10_000)
        assert log.startswith("fake engine: first line\n")
        assert log.endswith("fake engine: listening\n")
        assert "left out" in log
        assert 8_000 < len(log.encode()) < 10_200
        assert "left out" not in launcher.logs(spec.name, max_bytes=1_000_000)
        launcher.stop(spec.name, 5)
        assert launcher.logs(spec.name, max_bytes=10_000) == log
