"""Talking with models, keys, usage, and the doctor."""

import json
import os
import pty
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import parse_qs

import pytest

from portal_cli.events import Event, events, lines

CHAT = "POST /v1/chat/completions"


def piece(text):
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})


@pytest.fixture
def one_model(stand_in):
    stand_in.on("GET /v1/models", {"data": [{"id": "m", "max_model_len": 2048, "engines": ["m-1"]}]})


# Server-sent events


def test_events_come_as_the_standard_has_them():
    stream = b": note\n\nid: 1\ndata: a\r\ndata:b\n\nevent: end\ndata\n\nid: 2\n\ndata: torn"
    read = [Event("message", "a\nb", "1"), Event("end", "", "1")]
    assert list(events(lines([stream]))) == read
    assert list(events(lines(bytes([byte]) for byte in stream))) == read


# Chat


def test_an_answer_comes_piece_by_piece(at_stand_in, stand_in, one_model):
    over = threading.Event()
    stand_in.events(CHAT, piece("Hel"), piece("lo\x1b[2J"), until=over)
    process = at_stand_in.start("chat", "-m", "hi", "--max-tokens", "5", "--system", "Be brief.", stdout=-1, stderr=-1)
    assert process.stdout.read(8) == b"Hello[2J"
    assert not stand_in.waited_in_vain, "before the answer has ended"
    over.set()
    assert process.communicate(timeout=30)[1] == b"portal: The answer broke off.\n"
    assert stand_in.asked[-1].body == {
        "model": "m", "max_tokens": 5, "stream": True,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("last", "code", "told"),
    [
        ('data: {"error": {"message": "Out of tokens.", "code": "insufficient_quota"}}', 5, "Out of tokens."),
        ('data: {"error": {"message": "Engine gone.", "code": "engine_error"}}', 1, "Engine gone."),
        ("data: {not JSON", 1, "no JSON"),
        (": nothing", 6, "broke off"),
    ],
)
def test_an_answer_that_breaks_off_is_no_success(at_stand_in, stand_in, one_model, last, code, told):
    stand_in.events(CHAT, piece("Hel"), last)
    done = at_stand_in("chat", "-m", "hi")
    assert (done.returncode, done.stdout.startswith("Hel"), told in done.stderr) == (code, True, True)


def test_a_prompt_from_a_pipe(at_stand_in, stand_in, one_model):
    stand_in.events(CHAT, piece("ok"), "data: [DONE]")
    assert at_stand_in("chat", typed="line 1\nline 2\n").stdout == "ok\n"
    assert stand_in.asked[-1].body["messages"][-1]["content"] == "line 1\nline 2\n"
    assert at_stand_in("chat", "m", "-m", "-", typed="  ").returncode == 2


def test_an_answer_as_json_is_the_portals_own(at_stand_in, stand_in):
    stand_in.on(CHAT, {"choices": [], "usage": {"total_tokens": 3}})
    assert json.loads(at_stand_in("chat", "m", "-m", "hi", "--json").stdout)["usage"] == {"total_tokens": 3}


def test_which_model_must_be_clear(at_stand_in, stand_in):
    stand_in.on("GET /v1/models", {"data": []})
    stand_in.on("GET /v1/models", {"data": [{"id": "a"}, {"id": "b"}]})
    assert at_stand_in("chat", "-m", "hi").returncode == 4
    done = at_stand_in("chat", "-m", "hi")
    assert (done.returncode, "a, b" in done.stderr) == (2, True)


def test_a_talk_on_a_terminal_remembers_itself(at_stand_in, stand_in, one_model):
    stand_in.events(CHAT, piece("one"), "data: [DONE]")
    stand_in.on(CHAT, {"error": {"message": "Not now."}}, 503)
    stand_in.events(CHAT, piece("two"), "data: [DONE]")
    primary, secondary = pty.openpty()
    process = at_stand_in.start("chat", stdin=secondary, stdout=-1, stderr=-1)
    os.write(primary, b"first\nfails\nsecond\n/new\nthird\n\x04")
    out, told = process.communicate(timeout=30)
    os.close(primary)
    os.close(secondary)
    assert process.returncode == 0, told
    assert b"Not now." in told
    sent = [[one["content"] for one in asked.body["messages"]] for asked in stand_in.asked_for(CHAT)]
    assert sent == [["first"], ["first", "one", "fails"], ["first", "one", "second"], ["third"]]
    assert [out.count(b"one"), out.count(b"two")] == [1, 2]


def test_a_talk_that_the_portal_remembers(at_stand_in, stand_in, one_model):
    stand_in.events("POST /llm_request", 'data: {"username": "alice", "data": "Hi"}', "data: [DONE]")
    stand_in.on("POST /api/v1/conversations", {"number": 9}, 201)
    assert at_stand_in("chat", "--memory", "-m", "a").stdout == "Hi\n"
    at_stand_in("chat", "--conversation", "4", "-m", "b")
    at_stand_in("chat", "--new", "-m", "c")
    sent = [asked.body for asked in stand_in.asked_for("POST /llm_request")]
    assert all(body["memory"] is True for body in sent)
    assert [body.get("conversation_number") for body in sent] == [None, 4, 9]


# Keys and usage


def key(number, **fields):
    known = {"id": number, "username": "alice", "name": f"key {number}", "prefix": "sk-abc", "models": []}
    known |= {"last_four": f"{number:04}", "scopes": ["inference"], "expires_at": None, "revoked_at": None}
    return {**known, "last_used_at": None, **fields}


def test_keys_that_count_are_listed(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/keys", key(1))
    assert [line.split()[:2] for line in at_stand_in("keys", "list").stdout.splitlines()] == [
        ["ID", "USER"], ["1", "alice"],
    ]  # fmt: skip
    assert "REVOKED" in at_stand_in("keys", "list", "--all").stdout
    assert [asked.query for asked in stand_in.asked] == ["limit=200&revoked=false", "limit=200"]


def test_a_key_is_made_for_what_it_shall_do(at_stand_in, stand_in):
    stand_in.on("POST /api/v1/keys", {**key(3), "key": "sk-clear"}, 201)
    done = at_stand_in("keys", "make", "ci", "--scope", "read-only", "--model", "m", "--days", "30")
    assert (done.returncode, done.stdout) == (0, "sk-clear\n"), "a script can take it as it is"
    body = stand_in.asked[-1].body
    left = datetime.fromisoformat(body.pop("expires_at")) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)
    assert body == {"name": "ci", "scopes": ["read-only"], "models": ["m"]}


@pytest.mark.parametrize("name", ["2", "key 2", "0002"])
def test_a_key_is_revoked_by_id_name_or_last_four(at_stand_in, stand_in, name):
    stand_in.page("GET /api/v1/keys", key(1), key(2), key(5, name="key 2", username="bob"))
    stand_in.on("GET /api/v1/key", {"username": "alice"})
    stand_in.on("DELETE /api/v1/keys/2", None, 204)
    assert at_stand_in("keys", "revoke", name).stdout == "key 2 (sk-abc…0002) is revoked.\n"
    assert at_stand_in("keys", "revoke", "nothing").returncode == 4


def test_a_name_of_two_keys_is_not_enough(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/keys", key(1, name="ci"), key(2, name="ci"))
    stand_in.on("GET /api/v1/key", {"username": "alice"})
    assert at_stand_in("keys", "revoke", "ci").returncode == 2
    assert not any(asked.method == "DELETE" for asked in stand_in.asked)


def test_usage_shows_what_was_spent_and_what_may_be(at_stand_in, stand_in):
    group = {"group": "m", "requests": 2, "prompt_tokens": 30, "cached_tokens": 4, "generated_tokens": 50}
    stand_in.on("GET /api/v1/usage/summary", {"results": [group]})
    rate = {"name": "requests_per_minute", "limit": 60, "used": 1, "reserved": 0, "remaining": 59, "resets_at": "T"}
    total = {"limit": 100, "used": 50, "reserved": 0, "remaining": 50}
    yours = {"prompt_tokens": total, "generated_tokens": total, "resets": None, "rates": [rate]}
    none = {"limit": None, "used": 50, "reserved": 0, "remaining": None}
    own = {"prompt_tokens": none, "generated_tokens": total, "resets": None, "rates": []}
    stand_in.on("GET /api/v1/key", {"username": "alice", "limits": yours, "key": {"limits": own}})
    shown = at_stand_in("usage", "--by", "model", "--days", "7").stdout.splitlines()
    assert [line.split() for line in shown] == [
        ["MODEL", "REQUESTS", "PROMPT", "CACHED", "GENERATED"],
        ["m", "2", "30", "4", "50"],
        [],
        ["LIMIT", "USED", "OF", "LEFT", "ANEW", "AT"],
        ["you:", "prompt", "tokens", "50", "100", "50"],
        ["you:", "generated", "tokens", "50", "100", "50"],
        ["you:", "requests", "per", "minute", "1", "60", "59", "T"],
        ["key:", "prompt", "tokens", "50", "none"],
        ["key:", "generated", "tokens", "50", "100", "50"],
    ]
    query = parse_qs(stand_in.asked[0].query)
    since = datetime.now(UTC) - datetime.fromisoformat(query["started_after"][0])
    assert (query["group_by"], since.days) == (["model"], 7)
    assert json.loads(at_stand_in("usage", "--json").stdout)["summary"] == [group]


# The doctor


@pytest.fixture
def healthy(stand_in, one_model):
    stand_in.on("GET /healthz", {"status": "ok"})
    used = {"name": "laptop", "shown": "sk-abc…0007", "scopes": ["inference"]}
    stand_in.on("GET /api/v1/key", {"username": "alice", "role": "User", "key": used})
    stand_in.page("GET /api/v1/nodes", {"id": "gpu-1", "launcher": "docker", "gpus": [{}, {}]})
    stand_in.on(CHAT, {"choices": []})


def marks(done):
    return {one["what"]: one["mark"] for one in json.loads(done.stdout)}


STEPS = ["portal", "encryption", "clock", "key", "launcher", "answer"]


def test_all_is_well(at_stand_in, healthy):
    done = at_stand_in("doctor", "--json")
    assert (done.returncode, marks(done)) == (0, dict.fromkeys(STEPS, "ok"))
    assert "gpu-1: docker, 2 GPUs" in at_stand_in("doctor").stdout


@pytest.mark.parametrize(
    ("request_", "status", "code", "failed"),
    [
        ("GET /healthz", 503, 6, "portal"),
        ("GET /api/v1/key", 401, 3, "key"),
        ("GET /api/v1/nodes", 500, 1, "launcher"),
        (CHAT, 429, 5, "answer"),
    ],
)
def test_the_first_step_that_fails_is_the_exit_code(at_stand_in, stand_in, healthy, request_, status, code, failed):
    stand_in._answers.pop(tuple(request_.split()))
    stand_in.on(request_, {"detail": "No."}, status)
    done = at_stand_in("doctor", "--json")
    assert (done.returncode, list(marks(done))) == (code, STEPS[: STEPS.index(failed) + 1])
    assert marks(done)[failed] == "fail"


def test_what_works_with_a_doubt(at_stand_in, stand_in, healthy):
    stand_in._answers.pop(("GET", "/healthz"))
    late = format_datetime(datetime.now(UTC) - timedelta(minutes=10), usegmt=True)
    stand_in.on("GET /healthz", {}, headers={"Date": late})
    stand_in._answers.pop(("GET", "/api/v1/nodes"))
    stand_in.page("GET /api/v1/nodes", {"id": "here", "launcher": "simulator", "gpus": []})
    stand_in._answers.pop(("POST", "/v1/chat/completions"))
    stand_in.on(CHAT, {"error": {"message": "It embeds."}}, 400)
    done = at_stand_in("doctor", "--json")
    found = marks(done)
    assert done.returncode == 0
    assert [found[step] for step in ("launcher", "answer")] == ["warn", "warn"]


def test_without_a_login_the_doctor_says_so(cli):
    done = cli("doctor", "--json")
    assert (done.returncode, marks(done)) == (3, {"login": "fail"})
