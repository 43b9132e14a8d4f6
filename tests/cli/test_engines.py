"""Engines from their start to their end."""

import contextlib
import json
import os
import pty
from urllib.parse import parse_qs

import pytest

ID = "9e107d9d-372b-4c1d-8f4a-3e2f5d1c0b07"
OTHER = "9e107d9d-372b-4c1d-8f4a-3e2f5d1c0b08"


def engine(state="READY", **fields):
    known = {"id": ID, "name": "opt-3fa9", "model": "facebook/opt", "state": state, "state_since": None, "detail": ""}
    known |= {"cause": "", "advice": "", "owner": "alice", "endpoint": "http://portal/engines/x/v1/completions"}
    return {**known, "created_at": "2030-01-01T00:00:00Z", **fields}


def test_a_launch_says_the_engines_name(at_stand_in, stand_in):
    stand_in.on("POST /api/v1/engines", engine("QUEUED"), 202)
    done = at_stand_in("launch", "facebook/opt", "--max-model-len", "1024", "--hf-token", "-", typed="hf_secret\n")
    assert (done.returncode, done.stdout) == (0, "opt-3fa9\n")
    (asked,) = stand_in.asked
    assert asked.body == {"model": "facebook/opt", "max_model_len": 1024, "hugging_face_hub_token": "hf_secret"}


def test_a_launch_whose_answer_is_lost_is_sent_again_as_the_same(at_stand_in, stand_in):
    stand_in.on("POST /api/v1/engines", {"detail": "Later."}, 503)
    stand_in.on("POST /api/v1/engines", engine("QUEUED"), 202)
    assert at_stand_in("launch", "facebook/opt").returncode == 0
    first, second = stand_in.asked
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert len(first.headers["idempotency-key"]) >= 16
    at_stand_in("launch", "facebook/opt")
    assert stand_in.asked[-1].headers["idempotency-key"] != first.headers["idempotency-key"]


RECIPE = {
    "id": 7, "name": "exam", "owner": "root", "published": True, "model": "facebook/opt", "notes": "for the exam",
    "measured": {"starts": 2, "load_s": 71.5, "tokens_per_s": 900.0, "kv_cache_tokens": 4096}, "warnings": [],
}  # fmt: skip


def test_a_launch_from_a_recipe_says_only_what_the_recipe_does_not(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/recipes", RECIPE | {"id": 5, "name": "other"}, RECIPE)
    stand_in.on("POST /api/v1/recipes/7/start", engine("QUEUED", warnings=["The image is another."]), 202)
    done = at_stand_in("launch", "--recipe", "exam", "--lease-hours", "2", "--hf-token", "-", typed="hf_secret\n")
    assert (done.returncode, done.stdout) == (0, "opt-3fa9\n")
    assert "Warning: The image is another." in done.stderr
    (asked,) = stand_in.asked_for("POST /api/v1/recipes/7/start")
    assert asked.body == {"lease_hours": 2.0, "hugging_face_hub_token": "hf_secret"}
    assert asked.headers["idempotency-key"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seed", "1", "--recipe", "exam"), "leave out --seed."),
        (("facebook/opt", "--recipe", "exam"), "leave out MODEL."),
        (("--adapter", "sql=acme/sql", "--recipe", "exam"), "leave out --adapter."),
        ((), "Name a model, or --recipe."),
    ],
)
def test_a_launch_takes_a_recipe_or_options(at_stand_in, stand_in, arguments, said):
    done = at_stand_in("launch", *arguments)
    assert (done.returncode, done.stderr.rstrip().endswith(said)) == (2, True)
    assert not stand_in.asked


def test_adapters_are_named_one_by_one(at_stand_in, stand_in):
    stand_in.on("POST /api/v1/engines", engine("QUEUED"), 202)
    given = ("sql=acme/sql@v1", "law=acme/law", "mine=/models/a@b")
    assert at_stand_in("launch", "acme/tiny", *(word for one in given for word in ("--adapter", one))).returncode == 0
    assert stand_in.asked[-1].body["adapters"] == [
        {"name": "sql", "model": "acme/sql", "revision": "v1"}, {"name": "law", "model": "acme/law"},
        {"name": "mine", "model": "/models/a@b"},
    ]  # fmt: skip
    assert at_stand_in("launch", "acme/tiny", "--adapter", "acme/sql").returncode == 2


def test_ones_own_recipe_goes_before_a_published_one(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/recipes", RECIPE, RECIPE | {"id": 9, "owner": "alice", "published": False})
    for user in ("alice", "bob"):
        stand_in.on("GET /api/v1/users/me", {"username": user})
    stand_in.on("POST /api/v1/recipes/9/start", engine("QUEUED"), 202)
    assert at_stand_in("launch", "--recipe", "exam").returncode == 0
    stand_in.on("DELETE /api/v1/recipes/7", None, 204)
    assert at_stand_in("recipes", "rm", "exam").returncode == 0
    assert at_stand_in("launch", "--recipe", "none").returncode == 4


def test_recipes_are_listed_and_saved(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/recipes", RECIPE | {"warnings": ["The image is another."]})
    done = at_stand_in("recipes")
    assert done.stdout.splitlines()[1].split() == [
        "exam", "(published)", "facebook/opt", "root", "72", "s", "900.0", "4096", "for", "the", "exam",
    ]  # fmt: skip
    assert done.stderr == "exam: The image is another.\n"
    stand_in.on(f"GET /api/v1/engines/{ID}", engine())
    stand_in.on("POST /api/v1/recipes", RECIPE, 201)
    assert at_stand_in("recipes", "save", "exam", ID, "--publish", "--notes", "for the exam").stdout == "exam\n"
    (asked,) = stand_in.asked_for("POST /api/v1/recipes")
    assert asked.body == {"name": "exam", "engine": ID, "notes": "for the exam", "published": True}


def test_a_launch_that_waits_tells_each_step(at_stand_in, stand_in):
    stand_in.on("POST /api/v1/engines", engine("QUEUED"), 202)
    stand_in.on(f"GET /api/v1/engines/{ID}", engine("LOADING", detail="loading weights 45%"))
    stand_in.on(f"GET /api/v1/engines/{ID}", engine())
    done = at_stand_in("launch", "facebook/opt", "--wait")
    assert (done.returncode, done.stdout) == (0, "opt-3fa9\n")
    assert done.stderr.splitlines() == [
        "QUEUED", "LOADING  loading weights 45%", "READY", "Ready at http://portal/engines/x/v1/completions",
    ]  # fmt: skip
    as_json = at_stand_in("launch", "facebook/opt", "--wait", "--json")
    assert (json.loads(as_json.stdout)["state"], as_json.stderr) == ("READY", "")


def test_on_a_terminal_the_steps_move_and_hold_no_commands_for_it(at_stand_in, stand_in):
    stand_in.on("POST /api/v1/engines", engine("QUEUED"), 202)
    stand_in.on(f"GET /api/v1/engines/{ID}", engine("LOADING", detail="[bold]weights\x1b]0;owned\x07"))
    stand_in.on(f"GET /api/v1/engines/{ID}", engine())
    primary, secondary = pty.openpty()
    process = at_stand_in.start("launch", "facebook/opt", "--wait", stdout=-1, stderr=secondary, stdin=-3)
    os.close(secondary)
    out, shown = process.stdout.read(), b""
    with contextlib.suppress(OSError):  # a terminal that nobody has open any more
        while piece := os.read(primary, 65536):
            shown += piece
    process.stdout.close()
    os.close(primary)
    assert (process.wait(30), out) == (0, b"opt-3fa9\n")
    assert b"LOADING  [bold]weights]0;owned" in shown
    assert b"\x1b]0;" not in shown


def test_a_launch_that_fails_says_why_and_what_to_do(at_stand_in, stand_in):
    failed = engine("FAILED", cause="There is no model facebook/opt.", advice="Look at its name.")
    stand_in.on("POST /api/v1/engines", engine("QUEUED"), 202)
    stand_in.on(f"GET /api/v1/engines/{ID}", failed)
    done = at_stand_in("launch", "facebook/opt", "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("opt-3fa9 has failed. There is no model facebook/opt. Look at its name.\n")
    as_json = at_stand_in("launch", "facebook/opt", "--wait", "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)) == (1, failed)


def test_waiting_has_an_end(at_stand_in, stand_in):
    stand_in.on("POST /api/v1/engines", engine("QUEUED"), 202)
    stand_in.on(f"GET /api/v1/engines/{ID}", engine("LOADING"))
    done = at_stand_in("launch", "facebook/opt", "--wait", "--timeout", "0.2")
    assert (done.returncode, done.stdout) == (1, "")
    assert "opt-3fa9 is LOADING after 0 s and goes on" in done.stderr


def test_ps_shows_what_has_not_ended_page_after_page(at_stand_in, stand_in):
    next_page = "http://a-name-inside:8000/api/v1/engines?cursor=abc&limit=200"
    stand_in.on("GET /api/v1/engines", {"next": next_page, "results": [engine()]})
    stand_in.page("GET /api/v1/engines", engine("LOADING", name="second", detail="loading weights 45%"))
    lines = at_stand_in("ps").stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["opt-3fa9", "facebook/opt", "READY"], ["second", "facebook/opt", "LOADING"],
    ]  # fmt: skip
    assert lines[2].endswith("loading weights 45%")
    first, second = [parse_qs(asked.query) for asked in stand_in.asked]
    assert {"READY", "LOADING"} < set(first["state"])
    assert not {"STOPPED", "FAILED"} & set(first["state"])
    assert second == {"cursor": ["abc"], "limit": ["200"]}


def test_ps_without_engines(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/engines")
    stand_in.page("GET /api/v1/engines")
    stand_in.page("GET /api/v1/engines", engine("STOPPED"))
    assert at_stand_in("ps").stderr == "No engine runs.\n"
    assert json.loads(at_stand_in("ps", "--json").stdout) == []
    assert "STOPPED" in at_stand_in("ps", "--all").stdout


@pytest.mark.parametrize("name", [ID, "opt-3fa9", "facebook/opt"])
def test_stop_takes_a_name_a_model_or_an_id(at_stand_in, stand_in, name):
    stand_in.page("GET /api/v1/engines", engine())
    stand_in.on(f"GET /api/v1/engines/{ID}", engine(), until=None)
    if name == ID:
        stand_in.on(f"GET /api/v1/engines/{ID}", engine("STOPPING"))
    stand_in.on(f"GET /api/v1/engines/{ID}", engine("STOPPED"))
    stand_in.on(f"DELETE /api/v1/engines/{ID}", None, 204)
    done = at_stand_in("stop", name)
    assert (done.returncode, done.stdout) == (0, "opt-3fa9 STOPPED\n")
    assert len(stand_in.asked_for(f"DELETE /api/v1/engines/{ID}")) == 1


@pytest.mark.parametrize(("flags", "query"), [([], ""), (["--now"], "now=true")])
def test_what_an_engine_answers_ends_first_unless_it_is_to_stop_now(at_stand_in, stand_in, flags, query):
    stand_in.on(f"GET /api/v1/engines/{ID}", engine("STOPPING"), until=None)
    stand_in.on(f"DELETE /api/v1/engines/{ID}", None, 202)
    assert at_stand_in("stop", ID, "--no-wait", *flags).stdout == "opt-3fa9 STOPPING\n"
    (asked,) = stand_in.asked_for(f"DELETE /api/v1/engines/{ID}")
    assert asked.query == query


def test_stopping_what_has_ended_is_no_error_and_asks_for_nothing(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/engines")
    stand_in.page("GET /api/v1/engines", engine("FAILED"))
    done = at_stand_in("stop", "opt-3fa9")
    assert (done.returncode, done.stdout) == (0, "opt-3fa9 FAILED\n")
    assert not any(asked.method == "DELETE" for asked in stand_in.asked)


def test_a_model_that_two_engines_serve_is_no_name_of_one(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/engines", engine(), engine(id=OTHER, name="opt-77aa"))
    done = at_stand_in("stop", "facebook/opt")
    assert (done.returncode, "of opt-3fa9, opt-77aa" in done.stderr) == (2, True)


def test_an_engine_that_is_not_there(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/engines", engine())
    assert at_stand_in("stop", "opt").returncode == 4
    assert at_stand_in("logs", OTHER).returncode == 4


def test_of_ended_engines_of_one_model_the_latest_is_meant(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/engines")
    old = engine("FAILED", id=OTHER, name="old", created_at="2029-01-01T00:00:00Z")
    stand_in.page("GET /api/v1/engines", old, engine("STOPPED"))
    assert at_stand_in("stop", "facebook/opt").stdout == "opt-3fa9 STOPPED\n"


def test_rm_refuses_what_runs_and_says_what_is_left_of_the_rest(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/engines", engine(), engine("STOPPED", id=OTHER, name="old"))
    stand_in.on(f"GET /api/v1/engines/{OTHER}", engine("STOPPED", id=OTHER, name="old"))
    running = at_stand_in("rm", "old", "opt-3fa9")
    assert (running.returncode, "opt-3fa9 still runs" in running.stderr) == (1, True)
    ended = at_stand_in("rm", "old")
    assert (ended.returncode, "portal ps --all" in ended.stderr) == (0, True)
    assert not any(asked.method == "DELETE" for asked in stand_in.asked)


def test_logs(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/engines", engine())
    stand_in.on(f"GET /api/v1/engines/{ID}/logs", ["one\n\x1b[31mtwo\n\nthré".encode()])
    assert at_stand_in("logs", "opt-3fa9", "--tail", "3").stdout == "one\n[31mtwo\n\nthré\n"
    assert stand_in.asked[-1].query == "tail=3"
    lines = at_stand_in("logs", "opt-3fa9", "--json").stdout.splitlines()
    assert [json.loads(line)["line"] for line in lines] == ["one", "\x1b[31mtwo", "", "thré"]


def test_followed_logs_go_on_where_the_connection_broke_to_the_engines_end(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/engines", engine())
    stream = f"GET /api/v1/engines/{ID}/logs/stream"
    whole = b"id: 4\ndata: zero\ndata: one\ndata:\n\n: heartbeat\n\nid: 8\ndata: two in\n\n"
    stand_in.on(stream, [whole, b"id: 9\ndata: torn"], headers={"Content-Type": "text/event-stream"}, breaks=True)
    stand_in.on(stream, {"detail": "Later."}, 503)
    rest = ("id: 12\ndata:  pieces\ndata:\ndata:", "event: gap\ndata:", "id: 3\ndata: anew", "event: end\ndata:")
    stand_in.events(stream, *rest)
    done = at_stand_in("logs", "-f", "opt-3fa9", "-n", "1")
    assert (done.returncode, done.stdout) == (0, "one\ntwo in pieces\n\nanew\n")
    assert "something is missing here" in done.stderr
    ids = [asked.headers.get("last-event-id") for asked in stand_in.asked_for(stream)]
    assert ids == [None, "8", "8"]


def test_logs_that_cannot_be_followed_any_more(at_stand_in, stand_in):
    stand_in.page("GET /api/v1/engines", engine())
    stand_in.on(f"GET /api/v1/engines/{ID}/logs/stream", {"detail": "Too many streams."}, 429)
    assert at_stand_in("logs", "-f", "opt-3fa9").returncode == 5
