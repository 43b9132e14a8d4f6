"""Figures of well-known models that others have published, and the models' config.json.

`configs.json`: the files at huggingface.co/<name>/blob/main/config.json, reduced to what takes memory. Where those
need a licence to be read, and for the fields' values in general, they were compared with copies in public
repositories (github.com/ai-dynamo/aiconfigurator, model_configs; github.com/citsjtu2020/LLM-Prof, Model_Config.md).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

CONFIGS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "configs.json").read_text())
GIB, MIB, KB = 2**30, 2**20, 1000


class CacheFigure(NamedTuple):
    """`tokens` tokens take `size` bytes in 16 bits, as exact as they were written."""

    model: str
    tokens: int
    size: float
    exact_to: float
    source: str


_LMCACHE = "docs.lmcache.ai, FAQ, KV Cache Sizes for Popular Models"
_LLAMA31 = "huggingface.co/blog/llama31, inference memory requirements"
_DEEPSEEK = "Insights into DeepSeek-V3 (arXiv 2505.09343), table 1"
CACHE = [
    CacheFigure("meta-llama/Llama-3.1-8B", 1024, 0.125 * GIB, 0.001, _LLAMA31),
    CacheFigure("meta-llama/Llama-3.1-8B", 128_000, 15.62 * GIB, 0.001, _LLAMA31),
    CacheFigure("meta-llama/Llama-3.1-8B", 4096, 512 * MIB, 0.001, "github.com/ggml-org/llama.cpp/pull/10136"),
    CacheFigure("meta-llama/Llama-3.1-70B", 128_000, 39.06 * GIB, 0.001, _LLAMA31),
    CacheFigure("meta-llama/Llama-3.1-70B", 1000, 0.3052 * GIB, 0.001, _LMCACHE),
    CacheFigure("meta-llama/Llama-3.1-405B", 1, 516.096 * KB, 1e-6, _DEEPSEEK),
    CacheFigure("Qwen/Qwen2.5-72B", 1, 327.680 * KB, 1e-6, _DEEPSEEK),
    CacheFigure("deepseek-ai/DeepSeek-V3", 1, 70.272 * KB, 1e-6, _DEEPSEEK),
    CacheFigure("deepseek-ai/DeepSeek-V2-Lite", 32_768, 0.95 * GIB, 0.005, "github.com/vllm-project/vllm/issues/15871"),
    CacheFigure("Qwen/Qwen2.5-1.5B", 32_768, 896 * MIB, 1e-6, "github.com/GeniePod/genie-claw/issues/410"),
    CacheFigure("Qwen/Qwen3-8B", 1000, 0.1373 * GIB, 0.001, _LMCACHE),
    CacheFigure("Qwen/Qwen3-32B", 1000, 0.2441 * GIB, 0.001, _LMCACHE),
    CacheFigure("Qwen/Qwen3-30B-A3B", 1, 96 * 1024, 0.01, "github.com/aweussom/NoLlama/issues/21"),
    CacheFigure(
        "microsoft/Phi-3-mini-128k-instruct", 131_328, 49_248 * MIB, 1e-6,
        "github.com/ggml-org/llama.cpp/issues/6849, KV self size",
    ),
    CacheFigure(
        "tiiuae/falcon-7b", 1, 32 * (4672 - 4544) * 2, 1e-6,
        "github.com/kimborgen/falcon-llm: 32 layers whose query_key_value makes 4672 numbers of 4544",
    ),
    CacheFigure(
        "openai/gpt-oss-20b", 1, 24 * (512 + 512) * 2, 1e-6,
        "github.com/ikawrakow/ik_llama.cpp/issues/822: 24 layers, n_embd_k_gqa = n_embd_v_gqa = 512",
    ),
    CacheFigure("google/gemma-2-9b", 1, 42 * 2 * 8 * 256 * 2, 1e-6, "Gemma 2 (arXiv 2408.00118), table 1"),
    CacheFigure("google/gemma-2-27b", 1, 46 * 2 * 16 * 128 * 2, 1e-6, "Gemma 2 (arXiv 2408.00118), table 1"),
]  # fmt: skip


class WeightsFigure(NamedTuple):
    """`total_size` of model.safetensors.index.json, the type of the weights, and how many billions the model has."""

    model: str
    total_size: int
    stored_as: str
    billions: float
    source: str


WEIGHTS = [
    WeightsFigure("meta-llama/Llama-3.1-8B", 16_060_522_496, "BF16", 8.03, "its model card's 8.03B"),
    WeightsFigure(
        "meta-llama/Llama-3.1-70B", 141_107_412_992, "BF16", 70.55,
        "llama.cpp's log in github.com/ollama/ollama/pull/6279: model params = 70.55 B",
    ),
    WeightsFigure("mistralai/Mistral-7B-v0.1", 14_483_464_192, "BF16", 7.24, "its model card's 7.24B"),
    WeightsFigure("mistralai/Mixtral-8x7B-v0.1", 93_405_585_408, "BF16", 46.7, "mistral.ai/news/mixtral-of-experts"),
    WeightsFigure("Qwen/Qwen2.5-7B", 15_231_233_024, "BF16", 7.61, "its model card's 7.61B"),
    WeightsFigure("Qwen/Qwen2.5-72B", 145_412_407_296, "BF16", 72.7, "its model card's 72.7B"),
    WeightsFigure("Qwen/Qwen3-30B-A3B", 61_064_245_248, "BF16", 30.5, "its model card's 30.5B"),
    WeightsFigure("microsoft/Phi-3-mini-4k-instruct", 7_642_159_104, "BF16", 3.8, "its model card's 3.8B"),
]  # fmt: skip


class StartFigure(NamedTuple):
    """A start of vLLM: what it left for the KV cache of each GPU, and how many tokens that was."""

    model: str
    tensor_parallel_size: int
    weights_gib: float
    """All of them together."""
    cache_gib: float
    tokens: int
    max_model_len: int
    source: str


H100_BYTES = int(79.19 * GIB)
"""What an H100 with 80 GB tells."""
STARTS = [
    StartFigure("Qwen/Qwen3-8B", 1, 15.26, 50.32, 366_400, 40_960, _LMCACHE),
    StartFigure("Qwen/Qwen3-32B", 2, 61.02, 33.66, 275_760, 40_960, _LMCACHE),
    StartFigure("meta-llama/Llama-3.1-70B", 4, 131.42, 32.06, 420_208, 131_072, _LMCACHE),
]
