"""A start fixes its model to a commit: decision 0023."""

from itertools import pairwise

import pytest

from engines import launching, starting
from engines.models import Engine
from engines.states import State
from tests.fakes.hub import COMMIT, OLD_COMMIT

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = "/api/v1/engines"


@pytest.fixture
def cache(tmp_path, setting):
    """cache(name, commit): a Hugging Face cache where the repository's main was that commit."""
    setting(hf_cache_dir=str(tmp_path))

    def make(name, commit):
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        return repository

    return make


@pytest.fixture
def start(client_of, people):
    """start(**fields): the answer, to alice."""
    client = client_of(people["alice"])
    return lambda **fields: client.post(ENGINES, {"model": "acme/open", **fields}, format="json")


def flags():
    """What vLLM would be started with, by name."""
    argv = launching.launch_spec(Engine.objects.latest("created_at")).argv
    return {name: value for name, value in pairwise(argv) if "revision" in name}


@pytest.mark.parametrize(
    ("asked", "commit"), [({}, COMMIT), ({"revision": "v1"}, OLD_COMMIT), ({"revision": "auto"}, COMMIT)]
)
def test_what_is_asked_for_becomes_a_commit(hub, start, asked, commit):
    answer = start(**asked)
    assert (answer.status_code, answer.json()["revision"]) == (202, commit)
    assert flags() == {"--revision": commit}


def test_the_documented_start_takes_one_too(hub, client_of, alice):
    body = {"Model": "acme/open", "REVISION": "v1", "wait": False}
    assert client_of(alice).post("/vllm_request/start", body, format="json").status_code == 202
    assert flags() == {"--revision": OLD_COMMIT}


def test_a_tokenizer_of_its_own_has_its_own_commit(hub, start):
    assert start(revision="v1", tokenizer="acme/open").status_code == 202
    assert flags() == {"--revision": OLD_COMMIT, "--tokenizer-revision": COMMIT}


def test_a_tokenizer_is_not_looked_for_at_the_models_revision_where_nobody_tells(start):
    assert start(revision="v1", tokenizer="acme/other").status_code == 202
    assert flags() == {"--revision": "v1", "--tokenizer-revision": "main"}


@pytest.mark.parametrize("revision", ["v9", "-v1", "../main", "/etc", "a b", "a..b", "x" * 101])
def test_what_is_no_revision_is_refused(hub, start, revision):
    answer = start(revision=revision)
    assert (answer.status_code, list(answer.json())) == (400, ["revision"])
    assert not Engine.objects.exists()


def test_a_folder_has_none(start, setting, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    setting(allowed_model_roots=[tmp_path])
    assert start(model=str(tmp_path), revision="v1").json() == {
        "revision": ["A folder has no revisions; leave it out."]
    }
    assert start(model=str(tmp_path)).json()["revision"] == ""
    assert flags() == {}


def test_without_a_hub_it_is_the_commit_of_the_cache(hub, cache, start):
    cache("acme/open", OLD_COMMIT)
    hub.trouble = 500
    assert start().json()["revision"] == OLD_COMMIT
    assert start(revision=OLD_COMMIT).json()["revision"] == OLD_COMMIT
    assert start(revision="v1").json()["revision"] == "v1"


def test_where_engines_may_not_download_it_is_the_commit_of_the_cache(cache, start, setting):
    cache("acme/open", OLD_COMMIT)
    setting(hf_offline=True)
    assert start().json()["revision"] == OLD_COMMIT


def test_an_unasked_hub_may_have_something_newer_than_the_cache(cache, start):
    cache("acme/open", OLD_COMMIT)
    assert start().json()["revision"] == ""
    assert flags() == {}


@pytest.mark.parametrize("content", ["", "main", "../../x", "g" * 40, "0" * 200])
def test_what_is_no_commit_in_the_cache_is_left_out(cache, start, setting, content):
    (cache("acme/open", OLD_COMMIT) / "refs" / "main").write_text(content)
    setting(hf_offline=True)
    assert start().json()["revision"] == ""


def test_the_operators_revision_is_everybodys(hub, start, setting):
    setting(engine_extra_args=["--revision", "v1"])
    assert start(revision="main").json()["revision"] == OLD_COMMIT


def test_once_more_is_the_same_commit(hub, start, client_of, alice):
    start(revision="v1")
    engine = Engine.objects.get()
    assert starting.start_again(engine, alice).revision == OLD_COMMIT
    Engine.objects.filter(pk=engine.pk).update(state=State.FAILED)
    again = client_of(alice).post(f"{ENGINES}/{engine.pk}/retry", {}, format="json").json()
    assert again["revision"] == OLD_COMMIT
    newer = client_of(alice).post(f"{ENGINES}/{engine.pk}/retry", {"revision": "main"}, format="json").json()
    assert newer["revision"] == COMMIT


def test_the_fit_is_that_of_the_revision(hub, client_of, alice):
    hub.files = {"config.json": b'{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, '
                 b'"num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 64}'}  # fmt: skip
    fit = client_of(alice).post(f"{ENGINES}/fit", {"model": "acme/open", "revision": "v1"}, format="json")
    assert fit.json()["commit"] == OLD_COMMIT
