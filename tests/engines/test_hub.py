"""What is asked of the hub, with a small hub on this machine."""

import logging
import socket
import subprocess
import sys
import time

import pytest

from engines import hub
from engines.hub import Told
from tests.fakes.hub import COMMIT, GOOD_TOKEN, OLD_COMMIT, POOR_TOKEN, FakeHub
from vllm_portal.config import PROJECT_ROOT, environment
from vllm_portal.errors import FieldError


@pytest.fixture
def fake_hub():
    fake = FakeHub()
    yield fake
    fake.close()


@pytest.fixture
def ask(fake_hub):
    return lambda model="acme/open", token="", timeout_s=10.0, revision="": hub.check(
        {"Model": hub.Wanted(model, revision)}, token, fake_hub.url, timeout_s
    )


def refusal(act, *args, **options):
    with pytest.raises(FieldError) as error:
        act(*args, **options)
    return error.value.field, str(error.value)


def test_an_open_model_needs_no_token_and_the_portals_own_is_not_sent(ask, fake_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_whoever_runs_the_portal")
    assert ask() == Told("", {"Model": COMMIT})
    assert fake_hub.tokens == [""]


def test_a_token_gives_its_accounts_name(ask):
    assert ask(token=GOOD_TOKEN).account == "alice-hf"


@pytest.mark.parametrize("model", ["acme/gated", "acme/private", "acme/open"])
def test_who_may_read_a_model_may_start_it(ask, model):
    assert ask(model, GOOD_TOKEN) == Told("alice-hf", {"Model": COMMIT})


@pytest.mark.parametrize("token", ["", POOR_TOKEN])
def test_a_gated_model_names_the_token(ask, token):
    field, text = refusal(ask, "acme/gated", token)
    assert field == "HUGGING_FACE_HUB_TOKEN"
    assert "gated" in text


@pytest.mark.parametrize("token", ["", POOR_TOKEN])
@pytest.mark.parametrize("model", ["acme/private", "acme/none"])
def test_a_model_that_cannot_be_seen_names_the_model(ask, model, token):
    assert refusal(ask, model, token)[0] == "Model"


@pytest.mark.parametrize("model", ["acme/open", "acme/gated", "acme/none"])
def test_a_bad_token_names_the_token_and_does_not_repeat_it(ask, model, caplog):
    caplog.set_level(logging.DEBUG)
    field, text = refusal(ask, model, "hf_neverHeardOfThis")
    assert field == "HUGGING_FACE_HUB_TOKEN"
    assert "neverHeard" not in text + caplog.text


def test_a_missing_tokenizer_names_the_tokenizer(fake_hub):
    repositories = {"Model": hub.Wanted("acme/open"), "TOKENIZER": hub.Wanted("acme/none")}
    assert refusal(hub.check, repositories, "", fake_hub.url, 10.0)[0] == "TOKENIZER"


@pytest.mark.parametrize(
    ("revision", "commit"),
    [("", COMMIT), ("main", COMMIT), ("v1", OLD_COMMIT), ("refs/pr/3", OLD_COMMIT), (COMMIT, COMMIT)],
)
def test_a_revision_is_a_commit(ask, revision, commit):
    assert ask(revision=revision).commits == {"Model": commit}


def test_a_revision_that_is_not_there_is_named(ask):
    field, text = refusal(ask, revision="v9")
    assert field == "REVISION"
    assert "acme/open has no revision v9" in text


@pytest.mark.parametrize("status", [500, 502, 429, 418, 403])
def test_a_hub_in_trouble_keeps_nothing_from_starting(ask, fake_hub, status, caplog):
    fake_hub.trouble = status
    assert ask(token=GOOD_TOKEN) == Told("", {})
    assert GOOD_TOKEN not in caplog.text


def test_a_slow_hub_is_waited_for_no_longer_than_allowed(ask, fake_hub):
    fake_hub.delay_s = 30
    ask(timeout_s=1.0)  # the first call imports the library
    begun = time.monotonic()
    assert ask(token=GOOD_TOKEN, timeout_s=0.3) == Told("", {})
    assert time.monotonic() - begun < 20


def test_no_hub_at_all_keeps_nothing_from_starting():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert hub.check({"Model": hub.Wanted("acme/open")}, GOOD_TOKEN, url, 5.0) == Told("", {})


def test_the_web_process_does_not_carry_the_library():
    code = (
        "import django, sys; django.setup(); import engines.api, engines.urls;"
        "assert not {'huggingface_hub', 'pynvml', 'docker'} & set(sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(DJANGO_SETTINGS_MODULE="vllm_portal.settings"),
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
