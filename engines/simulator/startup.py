"""The log of an engine that starts, to stderr, with vLLM's prefixes, stages and pauses."""

import asyncio
import os
import sys
import time
from pathlib import Path

from engines.simulator import failures
from engines.simulator.options import Options

VERSION = "0.32.0-simulated"
KV_CACHE_TOKENS = 1 << 20
_SHARDS = 4


def log(text: str, where: str = "simulator.py:1", who: str = "APIServer", level: str = "INFO") -> None:
    """Each line gets the prefix, as in vLLM."""
    prefix = f"({who} pid={os.getpid()}) {level} {time.strftime('%m-%d %H:%M:%S')} [{where}] "
    sys.stderr.write("".join(f"{prefix}{line}\n" for line in text.split("\n")))
    sys.stderr.flush()


def raw(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def announce(options: Options) -> None:
    """The first lines, before anything can fail."""
    log("This is the simulated engine: no model is loaded, and its answers are made up.", level="WARNING")
    log(f"  version {VERSION}\n  model   {options.model}", "api_utils.py:347")
    log(f"non-default args: {options.given}", "api_utils.py:286")
    log(
        "Found ulimit of 20000 and failed to automatically increase with error current limit exceeds maximum limit. "
        "This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. "
        "Consider increasing with ulimit -n",
        "system_utils.py:255",
        level="WARNING",
    )


async def load(options: Options) -> None:
    """Takes `start_seconds`. Raises failures.StartFailure where the start is to fail, or a local model or adapter is
    missing."""
    cause = _cause(options)
    pause = options.start_seconds / (_SHARDS + 3)
    await asyncio.sleep(pause)
    if cause is not None and cause.phase == "config":
        cause.happen(options.model, options.max_model_len)
    architecture = "BertModel" if options.pooling else "LlamaForCausalLM"
    log(f"Resolved architecture: {architecture}", "model.py:733")
    log(f"Using max model len {options.max_model_len}", "model.py:2152")
    if options.enforce_eager:
        log("Enforce eager set, disabling torch.compile and CUDAGraphs.", "vllm.py:1703", level="WARNING")
    await asyncio.sleep(pause)
    log(
        f"Initializing a V1 LLM engine (v{VERSION}) with config: model={options.model!r}, dtype=simulated, "
        f"max_seq_len={options.max_model_len}, tensor_parallel_size={options.tensor_parallel_size}, "
        f"quantization={options.quantization or None}, served_model_name={options.names[0]}, "
        f"enable_prefix_caching={options.prefix_caching}",
        "core.py:133",
        "EngineCore",
    )
    log(f"Starting to load model {options.model}...", "gpu_model_runner.py:3259", "Worker")
    if options.start == "hangs":
        await asyncio.get_running_loop().create_future()
    if options.start == "never-healthy":
        await _load_for_ever(pause)
    for shard in range(_SHARDS + 1):
        raw(_progress(shard, _SHARDS))
        if shard < _SHARDS:
            await asyncio.sleep(pause)
    if cause is not None:
        cause.happen(options.model, options.max_model_len)
    log(f"Loading weights took {pause * _SHARDS:.2f} seconds", "default_loader.py:501", "Worker")
    log(f"Model loading took 0.00 GiB memory and {pause * _SHARDS:.2f} seconds", "gpu_model_runner.py:3338", "Worker")
    log(
        f"GPU KV cache size: {KV_CACHE_TOKENS:,} tokens, Maximum concurrency for {options.max_model_len:,} tokens per "
        f"request: {KV_CACHE_TOKENS / options.max_model_len:.2f}x",
        "kv_cache_utils.py:1229",
        "EngineCore",
    )
    await asyncio.sleep(pause)
    log(f"init engine (profile, create kv cache, warmup model) took {pause:.2f} s", "core.py:402", "EngineCore")
    _load_adapters(options)
    log(f"Supported tasks: {['embed'] if options.pooling else ['generate']}", "entry.py:136")


def _load_adapters(options: Options) -> None:
    for adapter in options.adapters:
        if adapter.path.startswith("/") and not Path(adapter.path, "adapter_config.json").is_file():
            raise failures.no_adapter(adapter.name)
        log(f"Loaded new LoRA adapter: name '{adapter.name}', path '{adapter.path}'", "serving.py:229")


def _cause(options: Options) -> failures.Cause | None:
    """Why the start is going to fail."""
    if options.model.startswith("/") and not Path(options.model).is_dir():
        return failures.CAUSES["no-such-path"]
    return failures.CAUSES.get(options.start)


async def _load_for_ever(pause: float) -> None:
    done = 0
    while True:
        done += 1
        raw(_progress(done, 10**6))
        await asyncio.sleep(max(pause, 0.05))


def _progress(done: int, shards: int) -> str:
    return f"Loading safetensors checkpoint shards: {100 * done // shards:3d}% Completed | {done}/{shards}"
