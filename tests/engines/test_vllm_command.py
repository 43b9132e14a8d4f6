"""What users write never becomes more than one argument."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.vllm_command import EngineOptions, HostOptions, build_argv, is_model_name

CPU = HostOptions(device="cpu")
SHELL = "; rm -rf /|`id`|$(id)|a b|a&b|a>b|a*b|a'b|a\"b|a\\b"
BAD_NAMES = [
    "", " ", "-model", "--port", "a/-b", "../etc", "a/..", "a..b/c", "/etc/passwd", "./a", "a/b/c", "a//b", "a/",
    "/a", ".hidden", "a/.b", "a--b", "a\n", "a\nb", "a\x00b", "modèle", "\u0430/b",
    "x" * 97, "http://x", *SHELL.split("|"),
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_model_names_are_none(name):
    assert not is_model_name(name)


@pytest.mark.parametrize("name", ["gpt2", "facebook/opt-125m", "Qwen/Qwen2.5-0.5B-Instruct", "a/b_c.d-e", "0/1"])
def test_real_model_names_are_some(name):
    assert is_model_name(name)


@given(st.text(max_size=200))
def test_a_model_name_is_plain_whatever_is_tried(text):
    if is_model_name(text):
        assert text.isascii()
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/")
        assert text[0] not in "-./"
        assert ".." not in text
        assert text.count("/") <= 1


@given(
    model=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}(/[A-Za-z0-9][A-Za-z0-9._-]{0,20})?", fullmatch=True),
    tokenizer=st.text(max_size=30),
    quantization=st.text(max_size=30),
    length=st.none() | st.integers(1, 2**27),
    seed=st.none() | st.integers(0, 2**32 - 1),
)
def test_each_value_is_one_argument_behind_its_flag(model, tokenizer, quantization, length, seed):
    if not is_model_name(model):
        return
    argv = build_argv(EngineOptions(model, (model, "e"), length, 2, seed, tokenizer, quantization), CPU)
    assert argv[:4] == [model, "--served-model-name", model, "e"]
    expected = {"--max-model-len": length, "--tensor-parallel-size": 2, "--seed": seed}
    expected |= {"--tokenizer": tokenizer or None, "--quantization": quantization or None}
    rest = argv[4:]
    for flag, value in expected.items():
        if value is None:
            continue
        position = rest.index(flag)
        assert rest[position + 1] == str(value)
        del rest[position : position + 2]
    assert rest == ["--enforce-eager", "--disable-access-log-for-endpoints", "/health,/metrics"]


@pytest.mark.parametrize("name", ["--port", "../x", "a b", "", "relative/../x"])
def test_a_model_that_is_neither_name_nor_folder_builds_no_command(name):
    with pytest.raises(ValueError, match="not a model name"):
        build_argv(EngineOptions(name, (name,)), CPU)
