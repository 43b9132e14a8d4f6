"""The journal of settlements: what a process wrote before a kill -9 is there, whole, and is told to the ledger once."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference import journal as journals
from inference import usage
from inference.admission import Admission
from inference.inheritance import inherit
from inference.journal import Journal, inherited, left_in
from inference.ledger_link import LedgerAway, LedgerLink
from inference.models import UsageRecord
from tests.live_rows import open_requests, put_row, row
from vllm_portal.config import get_config
from vllm_portal.redis_client import client

HALF = 4096


def operations(found) -> list[bytes]:
    return [entry.operation for entry in found]


@pytest.mark.parametrize("where", ["file", "memory"])
def test_what_was_written_is_there_in_order(tmp_path, where):
    journal = Journal(tmp_path if where == "file" else None, HALF)
    written = [b"%d" % number * number for number in range(1, 20)]
    for when, operation in enumerate(written):
        journal.append(when, 7, operation)
    assert operations(journal.since(0)) == written
    assert operations(journal.since(15)) == written[15:]
    assert {entry.user_id for entry in journal.since(0)} == {7}
    journal.close()
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("seed", range(5))
def test_at_least_the_last_half_is_kept_and_nothing_else_is_made_up(seed):
    luck = random.Random(seed)
    journal, written = Journal(None, HALF), []
    for number in range(1000):
        written.append(b"%d:" % number + luck.randbytes(luck.randint(0, 300)))
        journal.append(number, number, written[-1])
        found = operations(journal.since(0))
        assert found == written[-len(found) :]
        assert len(found) == len(written) or sum(28 + len(one) for one in found) > HALF - 28 - 310


def test_an_entry_that_the_kill_cut_off_is_not_there(tmp_path, monkeypatch):
    journal = Journal(tmp_path, HALF)
    journal.append(1, 7, b"first")

    class Killed:
        size = journals._HEAD.size

        @staticmethod
        def pack_into(*_):
            raise InterruptedError

    with monkeypatch.context() as kill:
        kill.setattr(journals, "_HEAD", Killed)
        with pytest.raises(InterruptedError):
            journal.append(2, 7, b"second")
    assert operations(journal.since(0)) == [b"first"]


def test_of_the_living_nothing_is_inherited_and_of_the_dead_once(tmp_path):
    journal = Journal(tmp_path, HALF)
    journal.append(1, 7, b"settle")
    (path,) = left_in(tmp_path)
    assert path.name == journal.process
    with inherited(path) as dead:
        assert dead is None
    journal.close(keep=True)  # the lock goes with the process
    with pytest.raises(LedgerAway), inherited(path):
        raise LedgerAway
    with inherited(path) as dead:
        assert dead.process == path.name.encode()
        assert operations(dead.entries) == [b"settle"]
        with inherited(path) as other:
            assert other is None
    with inherited(path) as dead:
        assert dead is None
    assert left_in(tmp_path) == []


def test_a_disk_without_room_is_said_at_once(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        Journal(tmp_path)
    assert list(tmp_path.iterdir()) == []


# A process that admits two requests, settles one of them and is killed before the ledger hears of it.
_VICTIM = """
import asyncio, os, signal, sys
from pathlib import Path
import django
django.setup()
from inference.admission import Admission
from inference.journal import Journal
from inference.ledger_link import LedgerLink
from inference.routing import Caller

async def main(url, directory, user_id):
    link = LedgerLink(url)
    await link.open()
    admission = Admission(link, None, 3600, journal=Journal(Path(directory)))
    caller = Caller(user_id, "alice", False, 1, 0)
    about = b'"engine_id":"00000000-0000-0000-0000-000000000000","model":"m","path":"/v1/x","streamed":false'
    first = await admission.reserve(caller, prompt_tokens=10, generated_tokens=5, about=about)
    second = await admission.reserve(caller, prompt_tokens=20, generated_tokens=6, about=about)
    admission.settle(first, prompt_tokens=7, generated_tokens=3, outcome="completed", exact=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def kill_one(directory: Path, user_id: int) -> None:
    arguments = [sys.executable, "-c", _VICTIM, get_config().redis, str(directory), str(user_id)]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "vllm_portal.settings"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr


def inherit_and_reap(directory: Path) -> set[int]:
    async def main() -> set[int]:
        touched = await inherit(directory, get_config().redis)
        link = LedgerLink(get_config().redis)
        await link.open()
        await Admission(link, None, 30).reap()
        await link.close()
        return touched

    return asyncio.run(main())


def counted(user_id: int) -> dict[str, int]:
    return {name: row(user_id)[name] for name in ("pr", "gr", "pu", "gu")}


@pytest.mark.django_db
def test_what_a_killed_process_had_settled_is_settled_and_its_lease_ends(tmp_path, empty_redis, alice):
    put_row(alice.pk, pl=100, gl=50)
    kill_one(tmp_path, alice.pk)
    assert counted(alice.pk) == {"pr": 30, "gr": 11, "pu": 0, "gu": 0}
    assert inherit_and_reap(tmp_path) == set()
    assert counted(alice.pk) == {"pr": 0, "gr": 0, "pu": 7, "gu": 3}
    assert open_requests() == set()
    records = [json.loads(line) for line in client().lrange("outbox", 0, -1)]
    assert sorted((one["outcome"], one["prompt_tokens"], one["exact"]) for one in records) == [
        ("completed", 7, True),
        ("expired", 0, False),
    ]
    assert left_in(tmp_path) == []


@pytest.mark.django_db
def test_where_redis_died_too_the_record_comes_from_the_journal(tmp_path, empty_redis, alice):
    put_row(alice.pk, pl=100, gl=50)
    kill_one(tmp_path, alice.pk)
    client().flushdb()
    assert inherit_and_reap(tmp_path) == {alice.pk}
    usage.flush()
    assert list(UsageRecord.objects.values_list("prompt_tokens", "generated_tokens", "exact")) == [(7, 3, True)]


def test_without_the_ledger_the_journal_stays(tmp_path):
    Journal(tmp_path, HALF).close(keep=True)
    with pytest.raises(LedgerAway):
        asyncio.run(inherit(tmp_path, "unix:///nonexistent/redis.sock"))
    assert len(left_in(tmp_path)) == 1


@pytest.mark.django_db
def test_settlements_of_another_version_hold_up_nobody(tmp_path, empty_redis, alice):
    """Its user is counted anew, and the process that died is done with."""
    journal = Journal(tmp_path, HALF)
    journal.append(1, alice.pk, b"$6\r\nsettle\r\n$1\r\n7\r\n")
    journal.close(keep=True)
    assert inherit_and_reap(tmp_path) == {alice.pk}
    assert left_in(tmp_path) == []
