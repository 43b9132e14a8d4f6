"""A hub with a small model, and a cache."""

import json
from contextlib import contextmanager

import pytest

from engines.downloads import process
from engines.downloads.folder import Download, Order
from engines.downloads.transfer import Cached
from tests.fakes.hub import COMMIT, FakeHub
from tests.waiting import wait_until
from vllm_portal.config import environment

MODEL = "acme/open"
MEBIBYTE = 1 << 20
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
CONTENT = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode(),
    SHARDS[0]: bytes(range(256)) * (3 * MEBIBYTE // 256),
    SHARDS[1]: bytes(reversed(range(256))) * (2 * MEBIBYTE // 256),
}
NOT_NEEDED = {
    "README.md": b"# A model",
    "pytorch_model.bin": MEBIBYTE,
    "model.gguf": MEBIBYTE,
    "onnx/model.onnx": MEBIBYTE,
    "original/consolidated.00.pth": MEBIBYTE,
    "original/params.json": b"{}",
}


@contextmanager
def hub_with_model():
    """Whose repositories all hold it."""
    hub = FakeHub()
    hub.files = {**CONTENT, **NOT_NEEDED}
    try:
        yield hub
    finally:
        hub.close()


@pytest.fixture
def hub():
    with hub_with_model() as hub:
        yield hub


@pytest.fixture
def cached(tmp_path):
    return Cached(tmp_path / "hf", MODEL, COMMIT)


@pytest.fixture
def download(tmp_path):
    download = Download(tmp_path / "downloads", MODEL, COMMIT)
    yield download
    assert process.end(download)


@pytest.fixture
def order(tmp_path, hub):
    """order(engine, token): to download the model of this hub."""
    return lambda engine="e1-1", token="", **other: Order(
        **{
            "engine": engine,
            "folder": str(tmp_path / "downloads"),
            "cache": str(tmp_path / "hf"),
            "name": MODEL,
            "commit": COMMIT,
            "endpoint": hub.url,
            "token": token,
            **other,
        }
    )


@pytest.fixture
def run(download, order):
    """run(engine, token): downloads until it ends, and how it did."""

    def until_it_ends(engine="e1-1", token="", **other):
        process.begin(download, order(engine, token, **other), environment())
        wait_until(lambda: not download.is_locked(), "the end of the download", 60)
        return download.outcome(engine)

    return until_it_ends
