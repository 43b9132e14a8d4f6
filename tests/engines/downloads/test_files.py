"""Which files of a repository vLLM reads, by layouts that repositories really have."""

import json

import pytest

from engines.downloads import files
from engines.downloads.files import File


def listing(*paths):
    return [File(path, 1, f"{number:040x}") for number, path in enumerate(paths)]


def paths(found):
    return {one.path for one in found}


def index(*names):
    return json.dumps({"weight_map": {str(number): name for number, name in enumerate(names)}}).encode()


@pytest.mark.parametrize(
    ("repository", "named", "expected"),
    [
        ({"model.safetensors", "pytorch_model.bin", "model.onnx", "model.gguf"}, None, {"model.safetensors"}),
        ({"a.safetensors", "b.safetensors", "old/c.safetensors"}, {"a.safetensors", "b.safetensors"},
         {"a.safetensors", "b.safetensors"}),
        ({"weights/a.safetensors", "b.safetensors"}, {"weights/a.safetensors"}, {"weights/a.safetensors"}),
        ({"consolidated.safetensors", "model-1.safetensors"}, {"model-1.safetensors"}, {"consolidated.safetensors"}),
        ({"model.safetensors", "original/consolidated.00.safetensors", "onnx/model.safetensors"}, None,
         {"model.safetensors"}),
        ({"model.safetensors", "2_Dense/model.safetensors"}, None, {"model.safetensors", "2_Dense/model.safetensors"}),
        ({"pytorch_model-1.bin", "pytorch_model-2.bin", "weights.pt"}, None,
         {"pytorch_model-1.bin", "pytorch_model-2.bin"}),
        ({"gptq.pt", "README.md"}, None, {"gptq.pt"}),
        ({"model.q4.gguf", "tf_model.h5", "flax_model.msgpack"}, None, set()),
        ({"a.safetensors"}, {"b.safetensors"}, set()),
    ],
)  # fmt: skip
def test_weights_are_those_that_vllm_would_take(repository, named, expected):
    assert paths(files.weights(listing(*repository), index(*named) if named else None)) == expected


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"no json", b'{"weight_map": []}', b'{"weight_map": {}}'])
def test_what_is_no_index_names_nothing(content):
    assert paths(files.weights(listing("a.safetensors", "b.safetensors"), content)) == {
        "a.safetensors",
        "b.safetensors",
    }


def test_beside_them_configuration_tokenizer_templates_and_code():
    wanted = {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer.model.v3",
        "merges.txt",
        "qwen.tiktoken", "chat_template.jinja", "1_Pooling/config.json", "modeling_own.py", "tekken.json",
    }  # fmt: skip
    rest = {"README.md", "model.onnx", "original/params.json", "onnx/config.json", ".gitattributes", "image.png"}
    assert paths(files.besides(listing(*wanted, *rest))) == wanted


def test_what_is_too_large_to_be_one_is_none():
    assert files.besides([File("log.json", files.LARGEST_BESIDES + 1, "0" * 40)]) == []


@pytest.mark.parametrize(
    "told",
    [
        ("../x.json", 1, "0" * 40), ("/etc/x.json", 1, "0" * 40), ("a//b.json", 1, "0" * 40), ("a/./b", 1, "0" * 40),
        ("a\\b.json", 1, "0" * 40), ("a\nb.json", 1, "0" * 40), ("", 1, "0" * 40), ("x" * 1001, 1, "0" * 40),
        ("a.json", -1, "0" * 40), ("a.json", "1", "0" * 40), ("a.json", 1, "../../x"), ("a.json", 1, "0" * 41),
        ("a.json", 1, None), (None, 1, "0" * 40),
    ],
)  # fmt: skip
def test_what_may_not_be_put_into_a_cache_is_no_file(told):
    assert files.file(*told) is None
