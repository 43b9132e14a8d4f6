"""Typed options to vLLM's arguments and environment. Pure: what is allowed here is all that ever reaches vLLM."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# A Hugging Face repository: `name` or `owner/name`. No leading dash or dot, so never a flag nor a path.
MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?\Z", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,99}\Z", re.ASCII)
QUANTIZATION = re.compile(r"[A-Za-z][\w-]{0,39}\Z", re.ASCII)
MAX_MODEL_LEN = 2**27
MAX_SEED = 2**32 - 1
CONTAINER_HF_CACHE = "/root/.cache/huggingface"
CONTAINER_COMPILE_CACHE = "/var/cache/vllm-portal"


class LoraModule(NamedTuple):
    """`path`: a folder where the engine runs."""

    name: str
    path: str


@dataclass(frozen=True)
class EngineOptions:
    """What a user may choose. None or "" means: vLLM decides."""

    model: str
    served_names: tuple[str, ...]
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    seed: int | None = None
    tokenizer: str = ""
    quantization: str = ""
    revision: str = ""
    tokenizer_revision: str = ""
    """Without it vLLM asks the tokenizer's repository for the model's revision."""
    gpu_memory_utilization: float | None = None
    sleeps: bool = False
    """It may be put to vLLM's own sleep: decision 0025. The operator's to allow."""
    adapters: tuple[LoraModule, ...] = ()
    max_lora_rank: int = 16


@dataclass(frozen=True)
class HostOptions:
    """What the operator's configuration decides."""

    device: str
    trust_remote_code: bool = False
    extra_args: tuple[str, ...] = ()
    extra_env: tuple[tuple[str, str], ...] = ()
    hf_endpoint: str = ""
    hf_offline: bool = False
    cpu_kv_cache_gib: int = 1


def is_model_name(text: str) -> bool:
    """Whether text is a Hugging Face model name; `..`, shell characters, flags and paths are not."""
    return bool(MODEL_NAME.match(text)) and ".." not in text and "--" not in text


def is_revision(text: str) -> bool:
    """Whether text may be a branch, tag or commit of a repository; `..`, flags and absolute paths are not."""
    return bool(REVISION.match(text)) and ".." not in text


def build_argv(options: EngineOptions, host: HostOptions) -> list[str]:
    """The arguments after `vllm serve`: the model first (vLLM wants it so), then flags. Each value is one element,
    so nothing in it can become a second argument. Host, port and key are the launcher's to add."""
    if not is_model_name(options.model) and not Path(options.model).is_absolute():
        raise ValueError(f"not a model name: {options.model!r}")
    argv = [options.model, "--served-model-name", *options.served_names]
    if options.revision:
        argv += ["--revision", options.revision]
    if options.max_model_len is not None:
        argv += ["--max-model-len", str(options.max_model_len)]
    argv += ["--tensor-parallel-size", str(options.tensor_parallel_size)]
    if options.seed is not None:
        argv += ["--seed", str(options.seed)]
    if options.tokenizer:
        argv += ["--tokenizer", options.tokenizer]
    if options.tokenizer_revision:
        argv += ["--tokenizer-revision", options.tokenizer_revision]
    if options.quantization:
        argv += ["--quantization", options.quantization]
    argv += _lora(options)
    if host.trust_remote_code:
        argv.append("--trust-remote-code")
    if host.device == "cpu" and "--no-enforce-eager" not in host.extra_args:
        argv.append("--enforce-eager")  # compiling wants a C++ compiler, which images have not
    silent = "/health,/metrics"
    if options.sleeps:
        argv.append("--enable-sleep-mode")
        silent += ",/is_sleeping"
    argv += ["--disable-access-log-for-endpoints", silent]
    argv += host.extra_args
    if options.gpu_memory_utilization is not None:  # last, so that no flag of the operator's makes a share larger
        argv += ["--gpu-memory-utilization", f"{options.gpu_memory_utilization:g}"]
    return argv


def _lora(options: EngineOptions) -> list[str]:
    """As JSON: in the form name=path a comma in a path would begin another one. All may be used in one batch."""
    if not options.adapters:
        return []
    base = options.served_names[0]
    modules = [json.dumps({**module._asdict(), "base_model_name": base}) for module in options.adapters]
    size = ["--max-loras", str(len(modules)), "--max-lora-rank", str(options.max_lora_rank)]
    return ["--enable-lora", *size, "--lora-modules", *modules]


def build_env(options: EngineOptions, host: HostOptions) -> dict[str, str]:
    """The engine's environment, without its key and the Hugging Face token, which travel apart."""
    env = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if host.hf_endpoint:
        env["HF_ENDPOINT"] = host.hf_endpoint
    if host.hf_offline:
        env["HF_HUB_OFFLINE"] = "1"
    if host.device == "cpu":
        # vLLM would otherwise take a share of the whole machine's memory and often refuse to start.
        env["VLLM_CPU_KVCACHE_SPACE"] = str(host.cpu_kv_cache_gib)
    if options.sleeps:
        env["VLLM_SERVER_DEV_MODE"] = "1"  # else it has no such routes
    return env | dict(host.extra_env)


def compile_cache_env(folder: str) -> dict[str, str]:
    """Where vLLM 0.32 and what it stands on put what they compile; what is not named here lies below the first."""
    return {
        "VLLM_CACHE_ROOT": f"{folder}/vllm",  # torch.compile's graphs, and DeepGEMM's kernels
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "TRITON_CACHE_DIR": f"{folder}/triton",
        "FLASHINFER_WORKSPACE_BASE": f"{folder}/flashinfer",
        "CUDA_CACHE_PATH": f"{folder}/cuda",
    }
