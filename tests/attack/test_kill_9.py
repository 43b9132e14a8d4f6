"""Processes of the portal are killed while it works: each token is still counted once, and the audit says so.

`make test-attack KILLS=300` makes it long."""

import contextlib
import json
import os
import random
import threading
import time
from collections import Counter

import psutil
import pytest
import redis
import requests

from tests.attack.fail_points import bring_back_soon
from tests.journeys import whole_way
from tests.journeys.portal_process import PortalProcess

MODEL = "some-org/some-model"
KILLS = int(os.environ.get("KILLS", "5"))
FEW = 5  # after more than these in a row the supervisor waits for longer than clients do
CLIENTS = 6
SEED = 20261123


@pytest.fixture
def portal(tmp_path):
    portal = PortalProcess(
        tmp_path, launcher="simulator", stop_engines_on_exit="true", reservation_lease_seconds=3, reconcile_seconds=0.5,
        web_processes=2,
    )  # fmt: skip
    if KILLS > FEW:
        bring_back_soon(portal)
    yield portal.start()
    portal.stop()


class Clients:
    """People who ask until they are told to stop; a third of the time they hang up in the middle. `told`: the (prompt,
    generated) tokens that whole answers named, with how many did so."""

    def __init__(self, portal: PortalProcess, token: str) -> None:
        self.told: Counter[tuple[int, int]] = Counter()
        self.outcomes: Counter[str] = Counter()
        self._url = portal.url + "/v1/chat/completions"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _ask(self, number: int) -> None:
        luck = random.Random(SEED + number)
        while not self._over.is_set():
            way = luck.choice([self._whole, self._streamed, self._left])
            try:
                self.outcomes[way(luck.randint(1, 60))] += 1
            except requests.RequestException:
                self.outcomes["broken"] += 1
                self._over.wait(0.05)

    @property
    def asked(self) -> int:
        return self.outcomes.total()

    def _post(self, max_tokens: int, **more: object) -> requests.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": max_tokens, **more}
        body["ignore_eos"] = True
        return requests.post(self._url, json=body, headers=self._headers, timeout=30, stream="stream" in more)

    def _whole(self, max_tokens: int) -> str:
        answer = self._post(max_tokens)
        if answer.status_code != 200:
            return f"{answer.status_code}"
        self._keep(answer.json()["usage"])
        return "whole"

    def _streamed(self, max_tokens: int) -> str:
        with self._post(max_tokens, stream=True, stream_options={"include_usage": True}) as answer:
            if answer.status_code != 200:
                return f"{answer.status_code}"
            events = [line[6:] for line in answer.iter_lines() if line.startswith(b"data: ")]
        if not events or events[-1] != b"[DONE]":
            return "broken"
        self._keep(json.loads(events[-2])["usage"])
        return "streamed"

    def _left(self, max_tokens: int) -> str:
        with self._post(max_tokens, stream=True) as answer:
            if answer.status_code != 200:
                return f"{answer.status_code}"
            next(answer.iter_content(50))
        return "left"

    def _keep(self, usage: dict) -> None:
        self.told[(usage["prompt_tokens"], usage["completion_tokens"])] += 1


def kill(portal: PortalProcess, name: str) -> None:
    """kill -9 of a process of the portal, which its supervisor starts again."""
    is_it = VICTIMS[name]

    def living() -> list[psutil.Process]:
        children = psutil.Process(portal.pid).children(recursive=True)
        return [child for child in children if child.status() != "zombie" and is_it(child)]

    portal.wait_for(living, 30, f"{name} to be there")
    living()[0].kill()


VICTIMS = {
    "web": lambda process: "vllm_portal.web" in process.cmdline(),
    "pages": lambda process: "vllm_portal.pages" in process.cmdline(),
    "worker": lambda process: "worker" in process.cmdline(),
    "redis": lambda process: any(name in process.name() for name in ("redis", "valkey")),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_after_kills_each_token_is_counted_once(portal, victim):
    alice = portal.admin().add_user("alice", "correct horse", prompt_token_limit=10**9, gen_token_limit=10**9)
    whole_way.start(alice, MODEL, 2048, 60)
    luck = random.Random(SEED)
    clients = Clients(portal, alice.token)
    try:
        for _ in range(KILLS):
            seen = clients.told.total()
            portal.wait_for(lambda seen=seen: clients.told.total() > seen + 10, 30, "answers")
            time.sleep(luck.random())
            kill(portal, victim)
    finally:
        clients.stop()

    ledger = redis.Redis(unix_socket_path=str(portal.directory / "data" / "redis" / "redis.sock"))

    def is_settled() -> bool:
        with contextlib.suppress(redis.ConnectionError):  # it may be what was killed
            return not ledger.exists("outbox") and not ledger.keys("running:*")
        return False

    portal.wait_for(is_settled, 60, "all to be settled and written")
    portal.wait_for(portal.answers, 60, "the pages to be there again")
    assert portal.audit() == "all is as it must be\n"

    rows = portal.database_rows(
        "select prompt_tokens, generated_tokens, outcome, exact from inference_usagerecord where path like '/v1/%'"
    )
    print(f"{dict(clients.outcomes)}, {len(rows)} records: {dict(Counter(row['outcome'] for row in rows))}")
    assert min(clients.outcomes[kind] for kind in ("whole", "streamed", "left")) > 5
    assert len(rows) <= clients.asked
    exact = Counter((row["prompt_tokens"], row["generated_tokens"]) for row in rows if row["exact"])
    assert clients.told <= exact, "each whole answer is recorded with the usage that it named"
    spent = [sum(row[name] for row in rows) for name in ("prompt_tokens", "generated_tokens")]
    assert alice.spent() == tuple(spent)
