"""What is read of a folder, of the cache and of what the hub says."""

import json
import os

import pytest

from engines import hub
from engines.fit import source
from engines.fit.shape import ShapeUnknown, read_shape
from engines.fit.source import Unreadable, from_cache, from_folder, from_hub
from engines.hub import Repository
from tests.engines.fit.tiny import CONFIG, HIDDEN, VOCAB, safetensors, write_model
from tests.fakes.hub import COMMIT, GOOD_TOKEN, FakeHub
from vllm_portal.errors import FieldError, Unavailable

PARAMETERS = 2 * VOCAB * HIDDEN


@pytest.fixture
def fake_hub():
    fake = FakeHub()
    fake.files = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": 1000}
    fake.parameters = {"BF16": 500}
    yield fake
    fake.close()


@pytest.fixture
def read(fake_hub):
    return lambda name="acme/open", token="", timeout_s=10.0: hub.read(
        "Model", hub.Wanted(name), token, fake_hub.url, timeout_s
    )


def cached(root, name="acme/tiny", commit=COMMIT):
    """A snapshot as huggingface_hub keeps it: links to blobs."""
    repository = root / "hub" / f"models--{name.replace('/', '--')}"
    write_model(repository / "blobs")
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in (repository / "blobs").iterdir():
        (snapshot / path.name).symlink_to(os.path.relpath(path, snapshot))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return snapshot


def test_a_folder_tells_its_shape_and_its_weights(tmp_path):
    found = from_folder(write_model(tmp_path / "tiny"))
    assert read_shape(found.config).layers[0].count == 2
    assert found.weights.count == PARAMETERS
    assert found.weights.stored_bytes == (tmp_path / "tiny" / "model.safetensors").stat().st_size


def test_of_two_sets_of_weights_the_one_in_the_index_counts(tmp_path):
    folder = write_model(tmp_path)
    (folder / "consolidated.safetensors").write_bytes(safetensors(all=[VOCAB, HIDDEN]))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(lora=[8, HIDDEN]))
    (folder / "pytorch_model.bin").write_bytes(bytes(10_000))
    assert from_folder(folder).weights.count == PARAMETERS
    (folder / "other.safetensors").write_bytes(safetensors(more=[8, 8]))
    index = {"metadata": {"total_size": 7}, "weight_map": {"embed": "model.safetensors"}}
    (folder / source.INDEX).write_text(json.dumps(index))
    assert from_folder(folder).weights.count == PARAMETERS


def test_where_not_all_of_the_index_is_here_its_total_counts(tmp_path):
    folder = write_model(tmp_path)
    index = {"metadata": {"total_size": 12_345}, "weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / source.INDEX).write_text(json.dumps(index))
    assert from_folder(folder).weights.stored_bytes == 12_345


def test_without_weights_their_size_is_unknown(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert from_folder(tmp_path).weights is None


@pytest.mark.parametrize("content", [b"", b"no json", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b" " * (2 << 20)])
def test_a_config_that_is_none_is_said_to_be_none(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises((Unreadable, ShapeUnknown), match=r"config\.json"):
        read_shape(from_folder(tmp_path).config)


@pytest.mark.parametrize(
    "config",
    [
        [], "text", None, 7, {}, {"num_hidden_layers": 2}, {**CONFIG, "num_hidden_layers": "2"},
        {**CONFIG, "num_attention_heads": None}, {**CONFIG, "hidden_size": -1}, {"text_config": {}},
    ],
)  # fmt: skip
def test_what_a_config_does_not_say_is_named(config):
    with pytest.raises(ShapeUnknown, match=r"config\.json"):
        read_shape(config)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x08" + bytes(7) + b"no json!", b"\x02" + bytes(7) + b"[]"])
def test_weights_that_cannot_be_read_still_have_a_size(tmp_path, content):
    folder = write_model(tmp_path)
    (folder / "model.safetensors").write_bytes(content + bytes(50))
    found = from_folder(folder).weights
    assert (found.stored_bytes, found.count) == (len(content) + 50, None)


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 7}', '{"weight_map": {"a": 7}}', '{"metadata": []}'])
def test_an_index_that_is_none_is_left_out(tmp_path, index):
    folder = write_model(tmp_path)
    (folder / source.INDEX).write_text(index)
    assert from_folder(folder).weights.count == PARAMETERS


def test_the_cache_answers_for_what_was_downloaded(tmp_path):
    cached(tmp_path)
    found = from_cache(tmp_path, "acme/tiny")
    assert (found.commit, found.weights.count) == (COMMIT, PARAMETERS)
    assert from_cache(tmp_path, "acme/other") is None


def test_nothing_is_read_through_a_link_that_leads_outside(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(CONFIG))
    snapshot = cached(tmp_path / "cache")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(secret)
    with pytest.raises(Unreadable):
        from_cache(tmp_path / "cache", "acme/tiny")
    folder = write_model(tmp_path / "folder")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(secret)
    with pytest.raises(Unreadable):
        from_folder(folder)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(Unreadable):
        from_folder(tmp_path)


def test_a_ref_that_leads_elsewhere_is_none(tmp_path):
    cached(tmp_path / "cache")
    write_model(tmp_path / "secret")
    ref = tmp_path / "cache" / "hub" / "models--acme--tiny" / "refs" / "main"
    ref.write_text("../../../../secret")
    assert (ref.parents[1] / "snapshots" / ref.read_text()).is_dir()
    assert from_cache(tmp_path / "cache", "acme/tiny") is None


def test_the_hub_tells_the_same(read, fake_hub):
    fake_hub.files |= {"consolidated.safetensors": 900, "original/model.safetensors": 800, "pytorch_model.bin": 700}
    found = from_hub(read())
    assert read_shape(found.config).hidden_size == HIDDEN
    assert (found.weights.stored_bytes, found.weights.count, found.commit) == (1000, 500, COMMIT)


def test_a_gated_model_is_told_to_whom_the_hub_tells(read, fake_hub):
    assert from_hub(read("acme/gated", GOOD_TOKEN)).config["model_type"] == "llama"
    with pytest.raises(FieldError, match="gated"):
        read("acme/gated")
    with pytest.raises(FieldError, match="has no acme/none"):
        read("acme/none")
    with pytest.raises(FieldError) as error:
        read("acme/open", "hf_neverHeardOfThis")
    assert "neverHeard" not in str(error.value)


@pytest.mark.parametrize("status", [500, 502, 429, 403])
def test_a_hub_in_trouble_is_said_to_be(read, fake_hub, status, caplog):
    fake_hub.trouble = status
    with pytest.raises(Unavailable, match="try again"):
        read(token=GOOD_TOKEN)
    assert GOOD_TOKEN not in caplog.text


def test_a_slow_hub_is_waited_for_no_longer_than_allowed(read, fake_hub):
    read()  # the first call imports the library
    fake_hub.delay_s = 30
    with pytest.raises(Unavailable):
        read(timeout_s=0.3)


def test_a_repository_without_a_config_is_no_model(read, fake_hub):
    del fake_hub.files["config.json"]
    with pytest.raises(Unreadable, match="no whole model"):
        from_hub(read())


def test_a_config_without_an_end_is_not_read_to_its_end(read, fake_hub):
    fake_hub.files["config.json"] = 4 << 20
    assert len(read().config) < 2 << 20
    with pytest.raises(Unreadable, match="too large"):
        from_hub(read())


def test_the_portals_own_token_is_not_sent(read, fake_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_whoever_runs_the_portal")
    read()
    assert set(fake_hub.tokens) == {""}


def test_a_repository_without_weights_has_none_that_are_known():
    assert from_hub(Repository("c", json.dumps(CONFIG).encode(), {"config.json": 5}, {})).weights is None
