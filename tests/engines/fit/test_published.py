"""What is computed of well-known models against what others have published of them."""

from dataclasses import replace

import pytest

from engines.fit.budget import Host, Model, Place, Wish, budget
from engines.fit.flags import GIB, MemoryFlags
from engines.fit.kv_cache import CacheSettings, bytes_per_distant_token, bytes_per_token, needed_bytes
from engines.fit.shape import read_shape
from engines.fit.verdict import judge, parallel_sizes
from engines.fit.weights import Weights, loaded_bytes
from tests.engines.fit.published import CACHE, CONFIGS, H100_BYTES, STARTS, WEIGHTS

ONE_GPU = CacheSettings(value_bytes=2, tensor_parallel_size=1, batched_tokens=2048)


@pytest.mark.parametrize("figure", CACHE, ids=lambda figure: f"{figure.model}-{figure.tokens}")
def test_the_kv_cache_is_as_large_as_published(figure):
    computed = bytes_per_token(read_shape(CONFIGS[figure.model]), ONE_GPU) * figure.tokens
    assert computed == pytest.approx(figure.size, rel=figure.exact_to), figure.source


def test_at_least_twelve_models_are_compared():
    assert len({figure.model for figure in CACHE}) >= 12


@pytest.mark.parametrize("figure", WEIGHTS, ids=lambda figure: figure.model)
def test_the_weights_are_as_many_as_published(figure):
    weights = Weights(figure.total_size, {figure.stored_as: figure.total_size // 2})
    assert weights.count == pytest.approx(figure.billions * 1e9, rel=0.006), figure.source
    assert loaded_bytes(weights, read_shape(CONFIGS[figure.model])) == figure.total_size


def test_vllm_said_of_deepseek_v2_lite_that_32768_tokens_need_0_95_gib():
    shape = read_shape(CONFIGS["deepseek-ai/DeepSeek-V2-Lite"])
    assert round(needed_bytes(shape, 32_768, ONE_GPU) / GIB, 2) == 0.95


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.model)
def test_a_published_start_had_the_tokens_that_are_computed(start):
    settings = CacheSettings(2, start.tensor_parallel_size, 8192)
    each = bytes_per_token(read_shape(CONFIGS[start.model]), settings)
    assert start.cache_gib * GIB / each == pytest.approx(start.tokens, rel=0.001)


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.model)
def test_the_overhead_of_a_published_start_is_estimated_to_a_gibibyte(start):
    """These were before CUDA graphs were counted."""
    host = Host(MemoryFlags(utilization=0.9, eager=True))
    place = Place("cuda", "NVIDIA H100 80GB HBM3", H100_BYTES, 8, 8)
    weights = Weights(int(start.weights_gib * GIB))
    model = Model(read_shape(CONFIGS[start.model]), weights)
    spent = budget(model, Wish(start.max_model_len, start.tensor_parallel_size), place, host)
    assert spent.cache == pytest.approx(start.cache_gib * GIB, abs=GIB)
    verdict = judge(model, Wish(start.max_model_len, start.tensor_parallel_size), place, host)
    assert verdict.fits
    assert verdict.requests_at_once == pytest.approx(start.tokens / start.max_model_len, abs=1)


def test_a_window_of_4096_saves_an_eighth_of_32768_tokens():
    """Mistral 7B (arXiv 2310.06825), section 2: the rolling cache takes an eighth of the memory at 32k tokens."""
    windowed = read_shape(CONFIGS["mistralai/Mistral-7B-v0.1"])
    whole = read_shape(CONFIGS["mistralai/Mistral-7B-v0.3"])
    settings = CacheSettings(2, 1, 0)  # nothing in flight
    assert needed_bytes(whole, 32_768, settings) / needed_bytes(windowed, 32_768, settings) == pytest.approx(8, abs=0.1)
    assert bytes_per_distant_token(windowed, settings) == 0


@pytest.mark.parametrize(
    ("model", "full", "windowed", "window"),
    [
        ("google/gemma-2-9b", 21, 21, 4096),
        ("google/gemma-3-27b-it", 10, 52, 1024),
        ("google/gemma-3-12b-it", 8, 40, 1024),
        ("openai/gpt-oss-120b", 18, 18, 128),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 12, 36, 8192),
        ("microsoft/Phi-3-mini-4k-instruct", 0, 32, 2047),
        ("Qwen/Qwen2.5-7B", 28, 0, None),
    ],
)
def test_which_layers_look_back_how_far(model, full, windowed, window):
    """As vLLM 0.32 makes them of these files, asked with its own classes."""
    layers = read_shape(CONFIGS[model]).layers
    assert sum(kind.count for kind in layers if kind.window is None) == full
    assert sum(kind.count for kind in layers if kind.window is not None) == windowed
    assert {kind.window for kind in layers} <= {None, window}


# (model, length, GPUs, max_num_batched_tokens, bytes): computed by vLLM 0.32's own kv_cache_utils for these shapes.
BY_VLLM = [
    ("deepseek-ai/DeepSeek-V3", 131_072, 8, 8192, 9_210_691_584),
    ("google/gemma-2-9b", 8_192, 1, 2048, 2_821_324_800),
    ("google/gemma-3-12b-it", 20_000, 1, 2048, 2_993_684_480),
    ("google/gemma-3-27b-it", 20_000, 1, 2048, 4_162_846_720),
    ("google/gemma-3-27b-it", 20_000, 2, 8192, 5_101_322_240),
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 131_072, 8, 8192, 1_258_291_200),
    ("openai/gpt-oss-120b", 131_072, 1, 8192, 5_441_126_400),
    ("openai/gpt-oss-20b", 4_096, 8, 2048, 25_214_976),
    ("Qwen/Qwen2.5-7B", 131_072, 8, 2048, 1_879_048_192),
    ("tiiuae/falcon-7b", 2_048, 1, 2048, 16_777_216),
]


@pytest.mark.parametrize(("model", "length", "gpus", "batched", "size"), BY_VLLM)
def test_a_request_needs_what_vllm_computes(model, length, gpus, batched, size):
    settings = CacheSettings(2, gpus, batched)
    assert needed_bytes(read_shape(CONFIGS[model]), length, settings) == size


@pytest.mark.parametrize(("full", "windowed", "size"), [(13, 12, 379_125_760), (20, 30, 756_940_800)])
def test_layers_of_uneven_kinds_are_padded_as_by_vllm(full, windowed, size):
    """Computed by vLLM's `_get_kv_cache_groups_uniform_page_size`: 13 and 12 layers take 13 each, 20 and 30 take 20
    and twice 20."""
    like = read_shape(CONFIGS["openai/gpt-oss-20b"])
    kinds = [replace(kind, count=full if kind.window is None else windowed) for kind in like.layers]
    assert needed_bytes(replace(like, layers=tuple(kinds)), 10_000, ONE_GPU) == size


def test_models_with_states_say_what_is_not_counted():
    for model, attention, states in (("Qwen/Qwen3.5-27B", 16, 48), ("nvidia/Nemotron-H-56B-Base-8K", 10, 54)):
        shape = read_shape(CONFIGS[model])
        assert (sum(kind.count for kind in shape.layers), shape.state_layers) == (attention, states)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("meta-llama/Llama-3.1-8B", [1, 2, 4, 8, 16]),
        ("Qwen/Qwen2.5-7B", [1, 2, 4]),  # 28 heads: 7 and 14 GPUs could not share 4 KV heads
        ("tiiuae/falcon-7b", [1]),
        ("openai/gpt-oss-120b", [1, 2, 4, 8, 16]),
        ("deepseek-ai/DeepSeek-V3", [1, 2, 4, 8, 16]),
    ],
)
def test_which_numbers_of_gpus_share_the_heads(model, sizes):
    assert parallel_sizes(read_shape(CONFIGS[model]), 16) == sizes


def test_four_bits_and_eight_as_vllm_makes_them():
    """vLLM's documentation of FP8 says half the memory of a model in 16 bits."""
    shape = read_shape(CONFIGS["meta-llama/Llama-3.1-70B"])
    stored = Weights(141_107_412_992, {"BF16": 70_553_706_496})
    assert loaded_bytes(stored, shape, "fp8") == pytest.approx(stored.stored_bytes / 2, rel=0.05)
    assert loaded_bytes(stored, shape, "bitsandbytes") < loaded_bytes(stored, shape, "fp8")
    assert loaded_bytes(stored, shape, "awq") == stored.stored_bytes  # needs files that are


def test_weights_in_32_bits_are_loaded_with_16():
    shape = read_shape(CONFIGS["google/gemma-2-9b"])  # stored in 32 bits, as its file says
    stored = Weights(36_966_823_936, {"F32": 9_241_705_984})
    assert loaded_bytes(stored, shape) == 2 * 9_241_705_984
    assert loaded_bytes(stored, shape, dtype="float32") == stored.stored_bytes
