"""Admission, settlement and the way to the database, against a real Redis; no engine."""

import asyncio
import json
import socket
import time

import pytest

from accounts import quotas
from inference import usage
from inference.admission import Admission
from inference.errors import InvalidKey, LimitReached, TryLater
from inference.ledger_link import LedgerAway, LedgerLink
from inference.limits import PromptTooLarge
from inference.models import UsageRecord
from inference.routing import Caller
from tests.live_rows import open_requests, put_row, row
from tests.threads import lent
from vllm_portal.config import get_config
from vllm_portal.redis_client import client

META = {"engine_id": "00000000-0000-0000-0000-000000000000", "model": "m", "path": "/v1/x", "streamed": False}
ALICE = Caller(1, "alice", False, 1, 0)


def ledger(scenario, *, lease_s: float = 30.0, load=None, **waiting):
    """Runs `scenario(admission)` in an event loop of its own."""

    async def no_load(user_id):
        raise AssertionError("nothing to load")

    async def main():
        link = LedgerLink(get_config().redis)
        await link.open()
        admission = Admission(link, load or no_load, lease_s, **waiting)
        try:
            return await scenario(admission)
        finally:
            await asyncio.sleep(0)
            await link.ask(b"reap", b"1", b"0")  # what was sent before has landed
            await link.close()

    return asyncio.run(main())


def quota(subject: int | str = 1, **fields) -> None:
    put_row(subject, **{"pl": 100, "gl": 50, **fields})


def held(subject: int | str = 1) -> dict[str, int]:
    return row(subject)


async def reserve(admission, prompt=10, generated=5, **options):
    options = {"caller": ALICE, "about": json.dumps(META)[1:-1].encode(), **options}
    return await admission.reserve(prompt_tokens=prompt, generated_tokens=generated, **options)


def test_a_reservation_holds_and_its_settlement_charges():
    quota()

    async def scenario(admission):
        reservation = await reserve(admission)
        assert (held()["pr"], held()["gr"]) == (10, 5)
        admission.settle(reservation, prompt_tokens=7, generated_tokens=3, outcome="completed", exact=True)
        admission.settle(reservation, prompt_tokens=7, generated_tokens=3, outcome="completed", exact=True)

    ledger(scenario)
    assert {name: held()[name] for name in ("pr", "gr", "pu", "gu")} == {"pr": 0, "gr": 0, "pu": 7, "gu": 3}
    (line,) = client().lrange("outbox", 0, -1)
    assert json.loads(line)["generated_tokens"] == 3


def test_parallel_reservations_stop_exactly_at_the_limit():
    quota(gl=50, pl=10_000)

    async def scenario(admission):
        wishes = [reserve(admission, generated=7) for _ in range(64)]
        return await asyncio.gather(*wishes, return_exceptions=True)

    outcomes = ledger(scenario)
    granted = [one.generated_tokens for one in outcomes if not isinstance(one, Exception)]
    assert sorted(granted) == [1] + [7] * 7
    assert all(isinstance(one, TryLater) for one in outcomes if isinstance(one, Exception))


def test_what_is_granted_is_a_multiple_of_the_number_of_answers():
    quota(gl=50)

    async def scenario(admission):
        return (await reserve(admission, generated=90, step=3)).generated_tokens

    assert ledger(scenario) == 48


def test_used_up_is_told_apart_from_held_by_others():
    quota(gl=5)

    async def scenario(admission):
        reservation = await reserve(admission)
        with pytest.raises(TryLater):
            await reserve(admission)
        admission.settle(reservation, prompt_tokens=1, generated_tokens=5, outcome="completed", exact=True)
        with pytest.raises(LimitReached):
            await reserve(admission)
        with pytest.raises(PromptTooLarge) as refusal:
            await reserve(admission, prompt=1000)
        assert (refusal.value.left, refusal.value.free) == (99, 99)

    ledger(scenario)


@pytest.mark.parametrize("change", [{"on": 0}, {"ver": 2}])
def test_a_user_who_was_disabled_or_changed_is_refused(change):
    quota(**change)

    async def scenario(admission):
        with pytest.raises(InvalidKey):
            await reserve(admission)

    ledger(scenario)
    assert (held()["pr"], held()["gr"]) == (0, 0)


def test_a_caller_who_leaves_during_admission_holds_nothing():
    quota()

    async def scenario(admission):
        task = asyncio.create_task(reserve(admission))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(3):
            await admission.link.ask(b"reap", b"1", b"0")

    ledger(scenario)
    assert (held()["pr"], held()["gr"]) == (0, 0)
    assert client().exists("outbox") == 0


def test_a_request_whose_process_died_is_settled_at_its_checkpoint():
    quota()

    async def dies(admission):
        reservation = await reserve(admission)
        reservation.seen = lambda: (8, 2)
        await admission.tick()

    ledger(dies, lease_s=0.001)

    async def reaps(admission):
        await asyncio.sleep(0.01)
        await admission.reap()
        assert open_requests()
        await asyncio.sleep(0.01)
        await admission.reap()

    ledger(reaps, lease_s=0.001)
    assert {name: held()[name] for name in ("pr", "gr", "pu", "gu")} == {"pr": 0, "gr": 0, "pu": 8, "gu": 2}
    (line,) = client().lrange("outbox", 0, -1)
    record = json.loads(line)
    assert (record["outcome"], record["exact"], record["reserved_tokens"]) == ("expired", False, 5)


def test_many_requests_of_a_process_that_died_are_settled_in_several_calls():
    quota()

    async def dies(admission):
        for _ in range(3):
            await reserve(admission, prompt=1, generated=1)

    async def reaps(admission):
        await asyncio.sleep(0.01)
        return [await admission.link.ask(b"reap", b"2", b"0") for _ in range(4)]

    ledger(dies, lease_s=0.001)
    assert ledger(reaps) == [b"0", b"2", b"1", b"0"]


@pytest.mark.parametrize(
    ("outcome", "exact", "kept"),
    [("completed", True, False), ("refused", True, False), ("completed", False, True), ("aborted", True, True),
     ("failed", True, True), ("failed", False, True)],
)  # fmt: skip
def test_what_was_reserved_is_kept_where_the_cost_is_not_certain(alice, outcome, exact, kept):
    quota(alice.pk)

    async def scenario(admission):
        reservation = await reserve(admission, caller=Caller(alice.pk, "alice", False, 1, 0))
        admission.settle(reservation, prompt_tokens=7, generated_tokens=3, outcome=outcome, exact=exact)

    ledger(scenario)
    assert usage.flush() == 1
    assert UsageRecord.objects.get().reserved_tokens == (5 if kept else None)


def test_a_renewed_lease_is_not_reaped():
    quota()

    async def scenario(admission):
        await reserve(admission)
        await admission.tick()
        await admission.reap()

    ledger(scenario, lease_s=5)
    assert held()["pr"] == 10


def test_who_was_silent_because_redis_was_away_is_not_reaped():
    """Another process is back first, and looks."""
    quota()

    async def scenario(admission):
        reservation = await reserve(admission)
        other = LedgerLink(get_config().redis)
        await other.open()
        for _ in range(2):
            client().zadd("alive", {admission.journal.process: 1000})  # long ago
            await other.ask(b"reap", b"100", b"0")
            await admission.link.ask(b"alive")
            await other.ask(b"reap", b"100", b"0")
        await other.close()
        admission.settle(reservation, prompt_tokens=7, generated_tokens=3, outcome="completed", exact=True)

    ledger(scenario)
    assert [json.loads(line)["outcome"] for line in client().lrange("outbox", 0, -1)] == ["completed"]


def test_a_settlement_that_redis_missed_is_sent_again(redis_server):
    quota()

    async def scenario(admission):
        reservation = await reserve(admission)
        admission.link._transport.abort()  # the line breaks
        admission.settle(reservation, prompt_tokens=7, generated_tokens=3, outcome="completed", exact=True)
        assert await admission.drain(5)

    ledger(scenario)
    assert (held()["pu"], held()["gu"], held()["pr"]) == (7, 3, 0)


def test_without_redis_nothing_is_admitted():
    async def scenario():
        link = LedgerLink("unix:///nonexistent/redis.sock")
        with pytest.raises(LedgerAway):
            await link.open()
        admission = Admission(link, None, 30)
        with pytest.raises(TryLater) as refusal:
            await reserve(admission)
        assert refusal.value.status == 503
        await link.close()

    asyncio.run(scenario())


def interrupted(user, lose) -> None:
    """One request is open and one was settled a moment ago when the connection breaks; `lose` takes from Redis what
    the break took. Afterwards the open one is settled, too."""

    async def load(subject):
        await asyncio.to_thread(lent(usage.load), subject)

    async def scenario(admission):
        who = Caller(user.pk, user.username, False, user.token_version, 0)
        still_open = await reserve(admission, caller=who)
        ended = await reserve(admission, caller=who)
        admission.settle(ended, prompt_tokens=7, generated_tokens=3, outcome="completed", exact=True)
        await admission.link.ask(b"reap", b"1", b"0")
        lose()
        client().client_kill_filter(_type="normal")
        for _ in range(500):
            await asyncio.sleep(0.01)
            if admission.link._was_ready and still_open.request_id.decode() in open_requests() and _outbox():
                break
        await asyncio.to_thread(lent(usage.flush))
        for user_id in admission.recount():
            await asyncio.to_thread(lent(quotas.drop), user_id)
        third = await reserve(admission, caller=who, prompt=1, generated=1)
        assert (held(user.pk)["pu"], held(user.pk)["pr"]) == (7, 11)
        for reservation in (still_open, third):
            admission.settle(reservation, prompt_tokens=1, generated_tokens=1, outcome="completed", exact=True)

    ledger(scenario, load=load)
    usage.flush()
    assert sorted(UsageRecord.objects.values_list("prompt_tokens", flat=True)) == [1, 1, 7]
    assert {name: held(user.pk)[name] for name in ("pu", "gu", "pr", "gr")} == {"pu": 9, "gu": 5, "pr": 0, "gr": 0}


def _outbox() -> bool:
    return client().llen("outbox") > 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("lost", ["nothing", "everything", "the last second"])
def test_what_a_redis_that_crashed_has_lost_is_told_again(alice, lost):
    def lose():
        if lost == "everything":
            client().flushdb()
        elif lost == "the last second":
            client().delete("outbox", "alive", *client().keys("running:*"))

    interrupted(alice, lose)


@pytest.mark.parametrize("paced", [{}, {"td": 1000, "so": 5}])
def test_what_was_asked_for_in_the_last_moment_is_given_back_too(paced):
    """The client leaves while more is asked for: the ledger grants it before it hears of the end."""
    quota(**paced)

    async def scenario(admission):
        reservation = await reserve(admission)
        admission.extend(reservation, 20, lambda granted: None)
        admission.settle(reservation, prompt_tokens=7, generated_tokens=3, outcome="aborted", exact=True)
        assert await admission.drain(5)

    ledger(scenario)
    assert {name: held()[name] for name in ("pr", "gr", "pu", "gu", "n")} == {
        "pr": 0,
        "gr": 0,
        "pu": 7,
        "gu": 3,
        "n": 0,
    }
    windows = [int(client().get(key)) for key in client().keys("win:*")]
    assert windows == ([10] if paced else [])


def test_a_request_that_was_granted_by_an_answer_that_got_lost_is_given_back():
    quota()

    async def scenario(admission):
        await admission.link.ask(b"alive")  # the script is loaded
        asked = asyncio.ensure_future(reserve(admission))
        for _ in range(3):  # until it has left
            await asyncio.sleep(0)
        deadline = time.monotonic() + 5
        while not open_requests():  # without giving this loop a turn to read the answer in
            assert time.monotonic() < deadline
        admission.link._transport.abort()
        with pytest.raises(TryLater):
            await asked
        assert held()["pr"] == 10
        for _ in range(500):
            await asyncio.sleep(0.01)
            if not held()["pr"]:
                break

    ledger(scenario)
    assert (open_requests(), held()["pr"], held()["gr"]) == (set(), 0, 0)


def test_a_redis_that_connects_and_says_nothing_is_away(tmp_path):
    """As one does that is stopped: the kernel takes the connection for it."""
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(str(tmp_path / "redis.sock"))
        stopped.listen()

        async def scenario():
            link = LedgerLink(f"unix://{tmp_path}/redis.sock", timeout_s=0.1)
            await link.open()
            async with asyncio.timeout(10):
                for _ in range(2):  # it connects anew after the first
                    with pytest.raises(LedgerAway):
                        await link.ask(b"alive")
            await link.close()

        asyncio.run(scenario())
        stopped.settimeout(0)
        for _ in range(2):
            stopped.accept()[0].close()
