"""What a script sees when something is wrong: exit codes, one sentence, and nothing that a terminal obeys."""

import json
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.cli.conftest import KEY
from vllm_portal.config import PROJECT_ROOT


@pytest.mark.parametrize(
    ("status", "body", "code", "told"),
    [
        (400, {"model": ["This field is required."]}, 1, "model: This field is required."),
        (401, {"detail": "This key is revoked."}, 3, "This key is revoked."),
        (403, {"detail": "The scope management is missing."}, 3, "The scope management is missing."),
        (404, {"detail": "Not found."}, 4, "Not found."),
        (409, [1, 2], 1, "The portal answers 409 Conflict."),
        (429, {"error": {"message": "Your limit is reached.", "code": "insufficient_quota"}}, 5, "limit is reached"),
        (402, None, 5, "The portal answers 402"),
        (500, [b"<html>"], 1, "The portal answers 500 Internal Server Error."),
        (503, {"detail": "Later."}, 6, "Later."),
        (504, None, 6, "The portal answers 504"),
        (200, [b"<html>hello"], 1, "does not answer like a portal"),
        (200, {"models": []}, 1, "otherwise than expected"),
        (200, [1], 1, "otherwise than expected"),
        (301, None, 1, "use that as its URL"),
    ],
)
def test_what_the_portal_refuses(at_stand_in, stand_in, status, body, code, told):
    stand_in.on("GET /v1/models", body, status, headers={"Location": "https://elsewhere.example/"})
    plain = at_stand_in("models")
    assert (plain.returncode, plain.stdout) == (code, "")
    assert plain.stderr.startswith("portal: ")
    assert told in plain.stderr
    assert plain.stderr.count("\n") == 1
    as_json = at_stand_in("models", "--json")
    error = json.loads(as_json.stderr)["error"]
    assert (as_json.returncode, as_json.stdout, error["exit_code"]) == (code, "", code)
    assert error["status"] == (status if status >= 400 else None)
    assert KEY not in plain.stderr + as_json.stderr


def test_nobody_is_logged_in(cli):
    done = cli("ps")
    assert (done.returncode, done.stdout) == (3, "")
    assert "portal login" in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:1", "http://127.0.0.1:1/", "https://127.0.0.1:1/v1"])
def test_the_portal_cannot_be_reached(cli, url):
    done = cli("models", "--url", url, "--key", KEY)
    assert done.returncode == 6, done.stderr
    assert "cannot be reached (" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_does_not_speak_http(cli):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        done = cli("models", "--url", f"127.0.0.1:{listener.getsockname()[1]}", "--key", KEY)
        thread.join(10)
    assert (done.returncode, "Traceback" in done.stderr) == (6, False)


@pytest.mark.parametrize(
    "url", ["ftp://portal", "http://", "http://portal:99999999", "http://a:b@portal/", "http://x?y"]
)
def test_what_is_no_url(cli, url):
    assert cli("models", "--url", url, "--key", KEY).returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["launch", "m", "--max-model-len", "0"], ["launch", "m", "--timeout", "nan"],
     ["keys"], ["keys", "make", "x", "--scope", "king"], ["keys", "make", "x", "--days", "99999999999"],
     ["chat", "--temperature", "hot"], ["usage", "--by", "moon"], ["ps", "--url"]],
)  # fmt: skip
def test_wrong_arguments(cli, arguments):
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: portal")


@pytest.mark.parametrize("key", ["sk-with space", "sk-ключ", "sk-\x07"])
def test_what_is_no_key(cli, key):
    assert cli("models", "--url", "127.0.0.1:1", "--key", key).returncode == 2


def test_a_password_in_netrc_does_not_take_the_keys_place(at_stand_in, stand_in):
    (at_stand_in.home / ".netrc").write_text("machine 127.0.0.1 login mallory password secret\n")
    (at_stand_in.home / ".netrc").chmod(0o600)
    stand_in.on("GET /v1/models", {"data": []})
    assert at_stand_in("models").returncode == 0
    assert stand_in.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_nothing_moves_the_cursor_or_is_taken_for_markup(at_stand_in, stand_in):
    name = "\x1b[2J\x1b]0;owned\x07[bold]m\x9b31m:smile:"
    stand_in.on("GET /v1/models", {"data": [{"id": name, "max_model_len": 1, "engines": ["a\rb"]}]})
    shown = at_stand_in("models").stdout
    assert "[2J]0;owned[bold]m31m:smile:" in shown
    assert not any(ord(character) < 32 and character != "\n" for character in shown)
    assert json.loads(at_stand_in("models", "--json").stdout)[0]["id"] == name


def test_a_long_row_is_whole_where_nobody_looks(at_stand_in, stand_in):
    stand_in.on("GET /v1/models", {"data": [{"id": "m" * 500, "engines": ["e" * 500]}]})
    assert f"{'m' * 500}           {'e' * 500}\n" in at_stand_in("models").stdout


def test_whoever_has_read_enough_is_no_error(at_stand_in, stand_in):
    stand_in.on("GET /v1/models", {"data": [{"id": f"{number}" * 300} for number in range(3000)]})
    process = at_stand_in.start("models", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    told = process.stderr.read()
    assert (process.wait(30), told) == (141, b"")
    process.stderr.close()


def test_ctrl_c_ends_it(at_stand_in, stand_in):
    over = threading.Event()
    stand_in.events("POST /v1/chat/completions", 'data: {"choices": [{"delta": {"content": "Well"}}]}', until=over)
    process = at_stand_in.start("chat", "m", "-m", "hi", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(4) == b"Well"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert not stand_in.waited_in_vain
    over.set()
    assert (process.returncode, told) == (130, b"")


def test_it_stands_alone():
    """A machine of a user has nothing of the portal."""
    ours = "('django', 'rest_framework', 'vllm_portal', 'accounts', 'engines', 'inference')"
    look = f"import sys, portal_cli.__main__; print([name for name in sys.modules if name.partition('.')[0] in {ours}])"
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_the_launcher_script_works_from_anywhere(cli, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "portal").symlink_to(PROJECT_ROOT / "portal")
    python = tmp_path / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "bin" / "portal", "--help"], cwd="/", capture_output=True, text=True, timeout=60, check=False,
        env={**cli.environment, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "exit codes:" in done.stdout
