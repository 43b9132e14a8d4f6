"""`manage.py audit` on a portal that has answered requests: nothing to find, until something is broken on purpose."""

import json
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db.models import F
from django.utils import timezone

from accounts import keys, quotas
from accounts.models import KeyLimit, TokenLimit
from engines.models import Engine
from inference import audit, usage
from inference.models import UsageRecord, UsageRollup
from tests.engines.simulator_process import SimulatorProcess
from tests.inference.conftest import ready_engine
from tests.live_rows import add_to_row, change_row, open_requests, put_open
from tests.threads import at_once
from vllm_portal.config import get_config
from vllm_portal.redis_client import client

CHAT = {"model": "acme/tiny", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def simulator():
    with SimulatorProcess("--max-model-len", "1024", "--simulate-token-seconds", "0") as process:
        yield process.ready()


@pytest.fixture
def used(portal, alice, simulator, limit, eventually):
    """A portal whose engine has answered two requests of alice and two of her key, which are in the database."""
    limit(alice, prompt=10**6, generated=10**6)
    engine = ready_engine(alice, simulator.port, model="acme/tiny")
    prompt, generated = simulator.tokens()
    Engine.objects.filter(pk=engine.pk).update(probe_prompt_tokens=prompt, probe_generated_tokens=generated)
    _, clear = keys.make(alice, {"name": "k", "gen_token_limit": 1000, "requests_at_once": 3})
    for headers in ({}, {"Authorization": f"Bearer {clear}"}):
        for stream in (False, True):
            answer = portal.post(alice, "/v1/chat/completions", {**CHAT, "stream": stream}, headers=headers)
            assert answer.status_code == 200, answer.text
    eventually(lambda: not open_requests() and (usage.flush(), UsageRecord.objects.count() == 4)[1])
    return engine


@pytest.fixture
def key(used):
    return KeyLimit.objects.get().key


def rules() -> set[str]:
    return {finding.rule for finding in audit.look()}


def test_a_portal_that_has_answered_requests_is_in_order(used, capsys):
    assert audit.look() == []
    call_command("audit")
    assert capsys.readouterr().out == "all is as it must be\n"


def test_of_an_engine_that_has_slept_the_last_generation_counts(used):
    """The engine's counters began at 0 when it woke; here it is the records that are of another time."""
    now = timezone.now()
    Engine.objects.update(generation=2, asked_at=now)
    assert rules() == {"engines"}
    UsageRecord.objects.update(started_at=now)
    assert rules() == set()


def test_what_is_broken_is_named_and_makes_the_command_fail(used, alice, capsys, monkeypatch):
    monkeypatch.setattr(audit.audit, "__defaults__", (0.0,))
    add_to_row(alice.pk, pu=1)
    with pytest.raises(SystemExit) as ended:
        call_command("audit", "--json")
    assert ended.value.code == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["rule"], finding["about"]) == ("counters", f"{alice.pk} prompt")
    with pytest.raises(SystemExit):
        call_command("audit")
    assert capsys.readouterr().out.endswith("\n1 broken\n")


def test_what_is_broken_at_one_look_only_is_none(used, alice, monkeypatch):
    add_to_row(alice.pk, pu=1)
    # The audit's own clock alone: the portal's threads sleep, too.
    monkeypatch.setattr(audit, "time", SimpleNamespace(sleep=lambda _: add_to_row(alice.pk, pu=-1)))
    assert audit.audit() == []


def opened(alice, request="r-open", lease_s=60, key=""):
    """An open request of alice that holds 5 + 2 tokens."""
    put_open(request, alice.pk, key, held=(5, 2), lease_s=lease_s)
    add_to_row(alice.pk, pr=5, gr=2)


def test_an_open_request_is_in_order(used, alice):
    opened(alice)
    assert audit.look() == []


def test_a_request_that_is_open_and_ended(used, alice):
    opened(alice, UsageRecord.objects.first().request_id)
    assert rules() == {"one record per request"}


def test_a_request_that_is_open_and_on_its_way_to_the_database(used, alice):
    opened(alice)
    one = {
        "request_id": "r-open", "user_id": alice.pk, "engine_id": "e", "model": "m", "path": "/v1/x", "streamed": False,
        "prompt_tokens": 0, "generated_tokens": 0, "exact": True, "outcome": "completed", "started_ms": 0,
        "duration_ms": 0,
    }  # fmt: skip
    client().rpush("outbox", f"{json.dumps({**one, 'request_id': 'r-ended'})}\n{json.dumps(one)}")
    assert rules() == {"one record per request"}


@pytest.mark.parametrize("counter", ["pr", "gr"])
def test_a_reservation_that_no_request_holds(used, alice, counter):
    add_to_row(alice.pk, **{counter: 3})
    assert rules() == {"reservations"}


def test_a_number_at_once_that_is_wrong(used, key):
    change_row(f"k{key.pk}", n=1)
    assert rules() == {"reservations"}


def test_leases(used, alice):
    opened(alice, lease_s=-120)
    (finding,) = audit.look()
    assert (finding.rule, finding.about) == ("reservations", "r-open")
    assert "ran out" in finding.text
    client().delete("alive")
    (finding,) = audit.look()
    assert "without a lease" in finding.text


@pytest.mark.parametrize("counter", ["pl", "gl"])
def test_a_limit_that_was_overrun(used, alice, counter):
    change_row(alice.pk, **{counter: 1})
    assert rules() == {"limits"}
    opened(alice)
    assert rules() == {"limits"}


def test_a_limit_that_was_lowered_is_not_overrun_until_a_request_begins(used, alice, key):
    quotas.set_limits(alice, prompt=1, generated=1)
    keys.change(key, {"gen_token_limit": 1})
    assert audit.look() == []
    opened(alice, key=f"k{key.pk}")
    change_row(f"k{key.pk}", pr=5, gr=2)
    assert {(found.rule, found.about) for found in audit.look()} == {
        ("limits", f"{alice.pk}"),
        ("limits", f"k{key.pk}"),
    }


@pytest.mark.parametrize("table", [TokenLimit, KeyLimit])
@pytest.mark.parametrize("column", ["prompt_token_number", "gen_token_number"])
def test_a_number_that_no_record_explains(used, table, column):
    table.objects.update(**{column: F(column) + 1})
    assert rules() == {"counters", "sums"}


def test_a_number_that_an_admin_changed_is_explained(used, alice, eventually):
    quotas.add_numbers(alice, prompt=-(10**9), generated=5)
    assert audit.look() == []
    assert TokenLimit.objects.get(user=alice).prompt_tokens_corrected < 0
    quotas.set_numbers(alice, prompt=77)
    quotas.set_limits(alice, prompt=10)
    assert audit.look() == []
    assert TokenLimit.objects.get(user=alice).prompt_token_number == 77


@pytest.mark.parametrize("column", ["prompt_tokens", "generated_tokens"])
def test_a_record_that_was_changed(used, column):
    record = UsageRecord.objects.first()
    UsageRecord.objects.filter(pk=record.pk).update(**{column: F(column) + 1})
    assert rules() == {"sums", "engines"}


def test_a_record_that_is_gone(used):
    UsageRecord.objects.first().delete()
    assert {found.rule for found in audit.look() if "requests" in found.about} == {"sums"}
    assert "engines" in rules()


@pytest.mark.parametrize("column", ["requests", "completed", "cached_tokens", "generated_tokens", "duration_ms"])
@pytest.mark.parametrize("period", ["hour", "day"])
def test_sums_that_are_not_those_of_the_records(used, column, period):
    UsageRollup.objects.filter(pk=UsageRollup.objects.filter(period=period).first().pk).update(**{column: 10**6})
    found = audit.look()
    assert {finding.rule for finding in found} == {"sums"}
    assert [finding.about.startswith(f"{period} of") and column in finding.about for finding in found] == [True]


def test_sums_are_by_user_key_engine_and_model(used, alice, key):
    rows = (
        UsageRollup.objects.filter(period="day")
        .order_by("api_key")
        .values_list("user", "api_key", "engine", "requests")
    )
    assert sorted(rows, key=str) == sorted([(alice.pk, None, used.pk, 2), (alice.pk, key.pk, used.pk, 2)], key=str)


def test_sums_made_from_records_that_were_there_before_are_the_same(used, alice):
    from importlib import import_module

    quotas.set_numbers(alice, generated=500)
    fields = ("period", "start", "user", "api_key", "engine", "model", *audit.sums.SUMS)
    kept = sorted(UsageRollup.objects.values_list(*fields), key=repr)
    corrected = TokenLimit.objects.values_list("prompt_tokens_corrected", "gen_tokens_corrected").get(user=alice)
    UsageRollup.objects.all().delete()
    TokenLimit.objects.update(prompt_tokens_corrected=1, gen_tokens_corrected=1)
    import_module("inference.migrations.0005_fill_rollups").fill(apps, None)
    assert sorted(UsageRollup.objects.values_list(*fields), key=repr) == kept
    assert (
        TokenLimit.objects.values_list("prompt_tokens_corrected", "gen_tokens_corrected").get(user=alice) == corrected
    )
    assert audit.look() == []


def test_an_engine_that_worked_for_somebody_else(used, simulator):
    body = {"model": "acme/tiny", "prompt": "x", "max_tokens": 3}
    assert simulator.post("/v1/completions", body).status == 200
    assert rules() == {"engines"}


def test_what_the_engine_refused_hides_no_difference(used, portal, alice, eventually):
    assert portal.post(alice, "/v1/chat/completions", {**CHAT, "temperature": -1}).status_code == 400
    eventually(lambda: UsageRecord.objects.filter(outcome="refused").exists())
    assert audit.look() == []
    UsageRecord.objects.filter(outcome="completed").first().delete()
    assert "engines" in rules()


def engines_found() -> set[str]:
    return {found.about.split()[-1] for found in audit.look() if found.rule == "engines"}


def generate(simulator, tokens: int, choices: int = 1) -> None:
    """Work for somebody else."""
    body = {"model": "acme/tiny", "prompt": "x", "max_tokens": tokens, "n": choices, "ignore_eos": True}
    assert simulator.post("/v1/completions", body).status == 200


CUT = [{"outcome": "aborted"}, {"outcome": "failed"}, {"outcome": "expired"}, {"outcome": "completed"}]


@pytest.mark.parametrize("cut", [{"exact": False, **cut} for cut in CUT] + [{"exact": True, "outcome": "aborted"}])
def test_an_engine_that_was_cut_off_may_have_counted_more_but_no_more_than_one_request_can(used, simulator, cut):
    UsageRecord.objects.filter(pk=UsageRecord.objects.first().pk).update(path="/v1/messages", **cut)
    generate(simulator, 1000)
    assert engines_found() == set()
    generate(simulator, 100)  # 1024 is the context
    assert engines_found() == {"generated"}
    UsageRecord.objects.filter(pk=UsageRecord.objects.last().pk).update(path="/v1/messages", **cut)
    assert engines_found() == set()  # two may have had 2048
    generate(simulator, 1000)
    assert engines_found() == {"generated"}


def test_a_chat_that_was_cut_off_may_have_had_sixteen_answers(used, simulator):
    UsageRecord.objects.filter(pk=UsageRecord.objects.first().pk).update(outcome="aborted", exact=False)
    generate(simulator, 1000, choices=15)
    assert engines_found() == set()
    generate(simulator, 1000, choices=2)
    assert engines_found() == {"generated"}


@pytest.mark.parametrize(("path", "found"), [("/v1/completions", set()), ("/v1/embeddings", {"generated"})])
def test_what_a_request_that_was_cut_off_may_have_generated_depends_on_its_endpoint(used, simulator, path, found):
    UsageRecord.objects.filter(pk=UsageRecord.objects.first().pk).update(outcome="failed", exact=False, path=path)
    generate(simulator, 1000, choices=10)
    generate(simulator, 1000, choices=10)
    assert engines_found() == found


def test_a_completion_that_was_cut_off_may_have_generated_what_it_had_reserved(
    used, portal, alice, simulator, eventually
):
    slow = {"vllm_xargs": {"simulate": "slow:0.05"}}
    body = {"model": "acme/tiny", "prompt": ["a", "b"], "n": 2, "max_tokens": 500, "ignore_eos": True, **slow}
    with portal.post(alice, "/v1/completions", {**body, "stream": True}, stream=True) as answer:
        next(answer.iter_content(10))
    eventually(lambda: usage.flush() or UsageRecord.objects.filter(outcome="aborted").exists())
    eventually(lambda: not simulator.running())
    assert UsageRecord.objects.get(outcome="aborted").reserved_tokens == 2000
    assert audit.look() == []
    generate(simulator, 900, choices=2)
    assert engines_found() == set()
    generate(simulator, 201)
    assert engines_found() == {"generated"}
    UsageRecord.objects.filter(outcome="completed").update(outcome="failed", path="/v1/completions")
    assert engines_found() == set()  # of these it is not known


@pytest.mark.parametrize("column", ["prompt_tokens", "generated_tokens"])
def test_an_engine_that_was_cut_off_has_counted_all_that_it_told(used, column):
    cut, told, *_ = UsageRecord.objects.all()
    UsageRecord.objects.filter(pk=cut.pk).update(outcome="aborted", exact=False, **{column: 10**6})
    assert engines_found() == set()
    UsageRecord.objects.filter(pk=cut.pk).update(exact=True)
    assert engines_found() == {column.removesuffix("_tokens")}
    UsageRecord.objects.filter(pk=cut.pk).update(exact=False)
    UsageRecord.objects.filter(pk=told.pk).update(**{column: 10**6})
    assert engines_found() == {column.removesuffix("_tokens")}


def test_an_engine_of_unknown_context_may_have_counted_anything_for_what_was_cut_off(used, simulator):
    Engine.objects.update(served_max_model_len=None, max_model_len=None)
    generate(simulator, 1000, choices=2)
    assert engines_found() == {"generated"}
    cut = UsageRecord.objects.filter(pk=UsageRecord.objects.first().pk)
    cut.update(outcome="aborted", exact=False, path="/v1/messages")
    assert engines_found() == set()
    Engine.objects.update(max_model_len=1024)
    assert engines_found() == {"generated"}


def test_an_engine_that_a_client_left_is_compared_again(used, portal, alice, simulator, eventually):
    slow = {"vllm_xargs": {"simulate": "slow:0.05"}}
    body = {**CHAT, "stream": True, "max_tokens": 500, "ignore_eos": True, **slow}
    with portal.post(alice, "/v1/chat/completions", body, stream=True) as answer:
        next(answer.iter_content(10))
    eventually(lambda: usage.flush() or UsageRecord.objects.filter(outcome="aborted").exists())
    eventually(lambda: not simulator.running())
    assert audit.look() == []
    generate(simulator, 1000, choices=16)
    generate(simulator, 1000)
    assert engines_found() == {"generated"}


def test_a_secret_in_a_log(used):
    log = get_config().data_dir / "logs" / "web.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("fine\nAuthorization: Bearer sk-0123456789abcdefghijklmnop\n")
    try:
        (finding,) = audit.look()
        assert (finding.rule, finding.about) == ("log", "web.log:2")
        assert "0123" not in finding.text
    finally:
        log.unlink()


def test_no_false_alarm_while_requests_go_on(used, portal, alice):
    headers = portal.headers(alice)

    def talk():
        for number in range(15):
            body = {**CHAT, "stream": bool(number % 2)}
            assert portal.post(alice, "/v1/chat/completions", body, headers=headers).status_code == 200

    def watch():
        return [finding for _ in range(6) for finding in audit.audit(0.2)]

    *_, found = at_once(talk, talk, talk, watch)
    assert found == []
