"""A crowd before a real vLLM: the ledger has what the engine itself has counted, and who leaves ends its work.

`make test-real REAL_REQUESTS=1000` makes it long."""

import asyncio
import os
import random
import re
import time

import pytest
import requests

from tests.journeys import whole_way
from tests.journeys.crowd import Client, Passers, crowd
from tests.journeys.portal_process import PortalProcess, Session

REQUESTS = int(os.environ.get("REAL_REQUESTS", "60"))
LEAVING = max(REQUESTS // 5, 12)
SEED = 20261123
MAX_MODEL_LEN = 1024


@pytest.fixture
def portal(tmp_path, tiny_model, native_vllm):
    portal = PortalProcess(
        tmp_path, launcher="process", vllm_executable=native_vllm, device="cpu", hf_offline="true",
        hf_cache_dir=tmp_path / "hf", allowed_model_roots=tiny_model.parent, stop_engines_on_exit="true",
        default_requests_per_minute=10**6,
    )  # fmt: skip
    yield portal.start()
    portal.stop()


@pytest.fixture
def alice(portal, tiny_model) -> Session:
    """She has an engine."""
    alice = portal.admin().add_user("alice", "correct horse", prompt_token_limit=10**9, gen_token_limit=10**9)
    whole_way.start(alice, str(tiny_model), MAX_MODEL_LEN, 300)
    return alice


def working_on(portal: PortalProcess) -> int:
    """How many requests the engine has, by its own word."""
    (engine,) = portal.database_rows("select host, port from engines_engine where state = 'READY'")
    metrics = requests.get(f"http://{engine['host']}:{engine['port']}/metrics", timeout=10).text
    return sum(int(float(n)) for n in re.findall(r"^vllm:num_requests_(?:running|waiting){\S*} (\S+)$", metrics, re.M))


def test_the_ledger_has_what_a_real_engine_counted_and_who_leaves_ends_its_work(portal, alice, tiny_model):
    passers = Passers(SEED, leaving=0)
    asyncio.run(crowd(portal.port, [alice.token] * 8, str(tiny_model), passers.act, REQUESTS))
    assert (passers.told.total(), passers.refused) == (REQUESTS, {})
    whole_way.the_ledger_equals_the_engines_counters(portal, alice)
    assert portal.audit() == "all is as it must be\n"

    luck = random.Random(SEED)
    waits_ms = []
    for number in range(LEAVING):
        client = Client(portal.port, alice.token, str(tiny_model))
        asyncio.run(client.leave(900, stream=number % 2 == 0, after_s=luck.uniform(0, 0.3)))
        left = time.monotonic()
        portal.wait_for(lambda: working_on(portal) == 0, 10, "the engine to have nothing to do")
        waits_ms.append(round((time.monotonic() - left) * 1000))
    records = "select outcome from inference_usagerecord where outcome != 'completed'"
    portal.wait_for(lambda: portal.audit() == "all is as it must be\n", 20, "the records of who left")
    waits_ms.sort()
    print(f"{LEAVING} left; idle after {waits_ms[len(waits_ms) // 2]} ms p50, {waits_ms[-1]} ms at most")
    outcomes = {row["outcome"] for row in portal.database_rows(records)}
    assert outcomes == {"aborted"}
