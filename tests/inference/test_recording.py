"""The way of settled requests from the live ledger to the database, each counted once."""

import json
import time
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from django.db import connection

from accounts import keys
from accounts.models import KeyLimit, TokenLimit
from accounts.quotas import ledger_lock
from engines.models import Engine
from inference import batches, usage
from inference.models import UsageRecord, UsageRollup
from tests.inference.ledger_seen import numbers
from tests.live_rows import put_open, row
from vllm_portal.config import get_config
from vllm_portal.redis_client import client

META = {"engine_id": "00000000-0000-0000-0000-000000000000", "model": "m", "path": "/v1/x", "streamed": False}


def record(request_id: str, user_id: int, prompt: int = 7, generated: int = 3) -> str:
    return json.dumps(
        {
            **META, "request_id": request_id, "user_id": user_id, "started_ms": 1_900_000_000_000,
            "prompt_tokens": prompt, "generated_tokens": generated,
            "cached_tokens": 0, "outcome": "completed", "exact": True, "first_token_ms": None, "duration_ms": 12,
        }
    )  # fmt: skip


def test_the_outbox_reaches_the_database_once(alice):
    lines = [record(f"r{i}", alice.pk) for i in range(3)]
    client().rpush("outbox", *lines)
    assert usage.flush() == 3
    client().rpush("outbox", *lines)  # as if the process had died before it trimmed
    usage.flush()
    assert (UsageRecord.objects.count(), numbers(alice)) == (3, (21, 9))
    assert client().exists("outbox") == 0


def test_records_that_came_in_one_call_are_one_element_and_written_in_batches(alice, monkeypatch):
    monkeypatch.setattr(usage, "BATCH", 2)
    client().rpush("outbox", "\n".join(record(f"r{i}", alice.pk) for i in range(5)), record("r5", alice.pk))
    assert usage.flush() == 6
    assert (UsageRecord.objects.count(), numbers(alice)) == (6, (42, 18))
    assert client().exists("outbox") == 0


def test_a_flush_leaves_it_to_whoever_is_at_it(alice):
    client().rpush("outbox", record("r1", alice.pk))
    with ledger_lock():
        assert usage.flush() == 0
    assert usage.flush() == 1


def test_a_young_outbox_is_left_to_the_worker(alice):
    now_ms = int(time.time() * 1000)
    client().rpush("outbox", json.dumps({**json.loads(record("r1", alice.pk)), "started_ms": now_ms}))
    assert usage.flush(older_than_s=60) == 0
    assert usage.flush() == 1


def test_a_flush_that_fails_loses_nothing(alice, monkeypatch):
    client().rpush("outbox", record("r1", alice.pk))
    with monkeypatch.context() as broken:
        broken.setattr(batches, "insert", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            usage.flush()
    assert numbers(alice) == (0, 0)
    usage.flush()
    assert numbers(alice) == (7, 3)


def test_records_of_a_deleted_user_are_kept_without_a_name(alice):
    client().rpush("outbox", record("r1", alice.pk + 1000))
    usage.flush()
    assert UsageRecord.objects.get().user is None


def test_loading_a_user_counts_what_is_still_on_its_way_and_what_is_open(alice, monkeypatch):
    TokenLimit.objects.filter(user=alice).update(prompt_token_number=100)
    put_open("x", alice.pk, held=(11, 4))
    with monkeypatch.context() as frozen:  # what comes while a load writes the outbox is counted from there
        frozen.setattr(usage, "_flush", lambda lock: 0)
        client().rpush("outbox", "\n".join([record("r1", alice.pk), record("r2", alice.pk)]))
        usage.load(str(alice.pk))
    assert row(alice.pk) == {
        "pl": 10_000, "gl": 1_000, "pu": 114, "gu": 6, "pr": 11, "gr": 4, "ver": 1, "on": 1,
        "rm": get_config().default_requests_per_minute, "rw": 0, "rn": 0, "n": 0,
    }  # fmt: skip


def test_a_batch_costs_few_queries(alice, django_assert_max_num_queries):
    client().rpush("outbox", *(record(f"r{i}", alice.pk) for i in range(300)))
    with django_assert_max_num_queries(12 if connection.vendor == "postgresql" else 14):
        usage.flush()


def test_a_record_says_what_the_ledger_told(alice):
    """The database has it as if the ORM had written it: lists filter and order by it."""
    key, _ = keys.make(alice, {"name": "ci"})
    engine = Engine.objects.create(name="e", model="m", launcher="process", device="cpu")
    told = {
        **json.loads(record("r1", alice.pk)), "key_id": key.pk, "engine_id": str(engine.pk), "reserved_tokens": 9,
        "cached_tokens": 2, "first_token_ms": 4, "exact": False, "outcome": "expired", "streamed": True,
        "started_ms": 1_900_000_000_009,
    }  # fmt: skip
    client().rpush("outbox", json.dumps(told))
    usage.flush()
    started_at = datetime(2030, 3, 17, 17, 46, 40, 9000, tzinfo=UTC)
    columns = {
        "user_id": alice.pk, "api_key_id": key.pk, "engine_id": engine.pk, "model": "m", "path": "/v1/x",
        "streamed": True, "prompt_tokens": 7, "cached_tokens": 2, "generated_tokens": 3, "reserved_tokens": 9,
        "exact": False, "outcome": "expired", "started_at": started_at, "first_token_ms": 4, "duration_ms": 12,
    }  # fmt: skip
    UsageRecord.objects.create(request_id="r2", **columns)
    with connection.cursor() as cursor:
        names = ", ".join(field.column for field in UsageRecord._meta.fields if field.name not in ("id", "request_id"))
        cursor.execute(
            f"SELECT {names}, started_at || '' FROM inference_usagerecord ORDER BY request_id"  # noqa: S608
        )
        ours, the_orms = cursor.fetchall()
    assert ours == the_orms
    assert UsageRecord.objects.filter(**columns).count() == 2
    assert list(KeyLimit.objects.filter(pk=key.pk).values_list("prompt_token_number", "gen_token_number")) == [(7, 3)]


@pytest.mark.parametrize("seed", range(3))
def test_sums_are_those_of_the_records(alice, bob, seed):
    """Also where an hour or a day begins, over several batches, and of people and engines that are gone."""
    random = Random(seed)
    midnight = datetime(2030, 3, 31, tzinfo=UTC)
    engines = [str(Engine.objects.create(name=f"e{n}", model="m", launcher="process", device="cpu").pk) for n in "ab"]
    for batch in range(3):
        for n in range(40):
            near = midnight + timedelta(hours=random.randrange(-30, 30), milliseconds=random.choice([-1, 0, 1]))
            more = {
                "started_ms": round(near.timestamp() * 1000), "model": random.choice(["m", "é"]),
                "engine_id": random.choice([*engines, META["engine_id"]]), "cached_tokens": random.randrange(3),
                "outcome": random.choice(["completed", "aborted"]),
            }  # fmt: skip
            whose = random.choice([alice.pk, bob.pk, alice.pk + 1000])
            client().rpush("outbox", json.dumps({**json.loads(record(f"r{batch}-{n}", whose)), **more}))
        usage.flush()
    kept: dict[tuple, list[int]] = {}
    for one in UsageRecord.objects.all():
        for period, format in (("hour", "%Y-%m-%d %H"), ("day", "%Y-%m-%d")):
            sums = kept.setdefault(
                (period, one.started_at.strftime(format), one.user_id, one.engine_id, one.model), [0] * 6
            )
            values = (
                1, one.outcome == "completed", one.prompt_tokens, one.cached_tokens, one.generated_tokens,
                one.duration_ms,
            )  # fmt: skip
            sums[:] = map(sum, zip(sums, values, strict=True))
    rows = list(UsageRollup.objects.all())
    formats = {"hour": "%Y-%m-%d %H", "day": "%Y-%m-%d"}
    assert kept == {
        (one.period, one.start.strftime(formats[one.period]), one.user_id, one.engine_id, one.model): [
            one.requests, one.completed, one.prompt_tokens, one.cached_tokens, one.generated_tokens, one.duration_ms,
        ]
        for one in rows
    }  # fmt: skip
    assert len(rows) == len(kept), "one row each"
