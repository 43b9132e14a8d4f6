"""Starts that fail: the last lines of the log and the exit code that a real vLLM leaves behind.

Two phases: what is wrong with the model or the arguments shows before anything is loaded, as a plain traceback. What
goes wrong while loading shows as ERROR lines of the engine's core, and vLLM then ends with a second traceback that only
says "Engine core initialization failed. See root cause above."
"""

import os
import signal
from dataclasses import dataclass
from typing import NoReturn

_SITE = "/opt/vllm/lib/python3.11/site-packages"
_API_FRAMES = f"""Traceback (most recent call last):
  File "/opt/vllm/bin/vllm", line 8, in <module>
    sys.exit(main())
             ^^^^^^
  File "{_SITE}/vllm/entrypoints/cli/main.py", line 120, in main
    args.dispatch_function(args)
  File "{_SITE}/vllm/entrypoints/cli/serve.py", line 156, in cmd
    uvloop.run(run_server(args))
  File "{_SITE}/vllm/entrypoints/launchers/api_server/entry.py", line 177, in run_server
    await run_server_worker(listen_address, sock, args, **uvicorn_kwargs)
"""
_CONFIG_FRAMES = f"""  File "{_SITE}/vllm/engine/arg_utils.py", line 1955, in create_model_config
    return ModelConfig(
           ^^^^^^^^^^^^
"""
_CORE_FRAMES = f"""EngineCore failed to start.
Traceback (most recent call last):
  File "{_SITE}/vllm/v1/engine/core.py", line 937, in run_engine_core
    engine_core = EngineCoreProc(*args, engine_index=dp_rank, **kwargs)
                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "{_SITE}/vllm/v1/engine/core.py", line 110, in __init__
    self.model_executor = executor_class(vllm_config)
                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^
"""
_CORE_ENDING = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
_MORE = "    For further information visit https://errors.pydantic.dev/2.14/v/value_error"
_MODEL_CONFIG = "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, "
_INPUT = " [type=value_error, input_value=ArgsKwargs((), {'model': ...}), input_type=ArgsKwargs]\n" + _MORE


class StartFailure(Exception):
    """`core`: what the engine's core logs, "" where it was not yet there. `plain`: what follows without a prefix."""

    def __init__(self, core: str, plain: str, exit_code: int = 1) -> None:
        super().__init__(plain)
        self.core = core
        self.plain = plain
        self.exit_code = exit_code


@dataclass(frozen=True)
class Cause:
    """`phase`: "config" or "load". `text` may name {model} and {length}; "": no word, the process just ends."""

    phase: str
    text: str
    exit_code: int = 1
    killed: bool = False

    def happen(self, model: str, length: int) -> NoReturn:
        if self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        text = self.text.replace("{model}", model).replace("{length}", str(length))
        if not text:
            raise StartFailure("", "", self.exit_code)
        if self.phase == "config":
            frames = _API_FRAMES + (_CONFIG_FRAMES if text.startswith(_MODEL_CONFIG) else "")
            raise StartFailure("", frames + text, self.exit_code)
        raise StartFailure(_CORE_FRAMES + text, _API_FRAMES + _CORE_ENDING, self.exit_code)


def no_adapter(name: str) -> StartFailure:
    """Its folder is not there, or holds none. The core goes on; it is the API server that ends."""
    text = f"Loading lora {name} failed: No adapter found for"
    return StartFailure("", f"{_API_FRAMES}ValueError: {text} <path>")


CAUSES = {
    "max-model-len": Cause(
        "config",
        _MODEL_CONFIG + "User-specified max_model_len ({length}) is greater than the derived max_model_len "
        "(max_position_embeddings=2048.0 or model_max_length=None in model's config.json). To allow overriding this "
        "maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1." + _INPUT,
    ),
    "unsupported-arch": Cause(
        "config",
        _MODEL_CONFIG + "Model architectures ['ImaginaryForCausalLM'] are not supported for now. Supported "
        "architectures: dict_keys(['LlamaForCausalLM', 'MistralForCausalLM', 'Qwen3ForCausalLM'])" + _INPUT,
    ),
    "quantization": Cause(
        "config",
        _MODEL_CONFIG + "Unknown quantization method: imaginary. Must be one of ['awq', 'fp8', 'gptq']." + _INPUT,
    ),
    "tensor-parallel": Cause(
        "config",
        "ValueError: World size (4) is larger than the number of available GPUs (1) in this node. If this is "
        "intentional and you are using ray, set '--distributed-executor-backend ray'.",
    ),
    "no-gpu": Cause(
        "config",
        "RuntimeError: Failed to infer device type, please set the environment variable "
        "`VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.",
    ),
    "gated": Cause(
        "config",
        "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-0-0)\n\n"
        "Cannot access gated repo for url https://huggingface.co/{model}/resolve/main/config.json.\n"
        "Access to model {model} is restricted. You must have access to it and be authenticated to access it. "
        "Please log in.\n\n"
        "The above exception was the direct cause of the following exception:\n\n" + _API_FRAMES + ""
        "OSError: You are trying to access a gated repo.\n"
        "Make sure to have access to it at https://huggingface.co/{model}.\n401 Client Error.",
    ),
    "no-such-model": Cause(
        "config",
        "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error. (Request ID: Root=1-0-0)\n\n"
        "Repository Not Found for url: https://huggingface.co/{model}/resolve/main/config.json.\n"
        "Please make sure you specified the correct `repo_id` and `repo_type`.\n\n"
        "The above exception was the direct cause of the following exception:\n\n" + _API_FRAMES + ""
        "OSError: {model} is not a local folder and is not a valid model identifier listed on "
        "'https://huggingface.co/models'\n"
        "If this is a private repository, make sure to pass a token having permission to this repo either by logging "
        "in with `hf auth login` or by passing `token=<your_token>`",
    ),
    "no-such-path": Cause(
        "config",
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
        "'namespace/repo_name': '{model}'. Use `repo_type` argument if needed.",
    ),
    "offline": Cause(
        "config",
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the "
        "specified revision on the local disk and outgoing traffic has been disabled. To enable repo look-ups and "
        "downloads online, pass 'local_files_only=False' as input.",
    ),
    "kv-cache": Cause(
        "load",
        "ValueError: To serve at least one request with the model's max seq len ({length}), 4.0 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (0.5 GiB). Based on the available memory, the "
        "estimated maximum model length is 256. Try increasing `gpu_memory_utilization` or decreasing "
        "`max_model_len` when initializing the engine.",
    ),
    "gpu-memory": Cause(
        "load",
        "ValueError: Free memory on device cuda:0 (2.1/23.64 GiB) on startup is less than desired GPU memory "
        "utilization (0.92, 21.75 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
    ),
    "cuda-oom": Cause(
        "load",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of "
        "23.64 GiB of which 117.00 MiB is free. Including non-PyTorch memory, 23.52 GiB are in use.",
    ),
    "shm": Cause(
        "load",
        "RuntimeError: Insufficient space in /dev/shm for shared-memory allocation: 160 MiB required, 64 MiB free. "
        "Increase /dev/shm (e.g. --shm-size or --ipc=host).",
    ),
    "oom-kill": Cause("load", "", killed=True),
    "silent": Cause("load", "", exit_code=0),
    "token": Cause(
        "config",
        "huggingface_hub.errors.HfHubHTTPError: 401 Client Error: Unauthorized for url: "
        "https://huggingface.co/{model}/resolve/main/config.json (Request ID: Root=1-0-0)\n\n"
        "Invalid credentials in Authorization header",
    ),
    "hub": Cause(
        "config",
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the "
        "cached files.",
    ),
    "remote-code": Cause(
        "config",
        _MODEL_CONFIG + "The repository {model} contains custom code which must be executed to correctly load the "
        "model. You can inspect the repository content at https://hf.co/{model}.\n"
        "Please pass the argument `trust_remote_code=True` to allow custom code to be run." + _INPUT,
    ),
    "heads": Cause(
        "config", "ValueError: Total number of attention heads (64) must be divisible by tensor parallel size (3)."
    ),
    "tokenizer": Cause("config", "OSError: Can't load tokenizer for '{model}'."),
    "port": Cause("config", "OSError: [Errno 98] Address already in use"),
    "driver": Cause("load", "RuntimeError: The NVIDIA driver on your system is too old (found version 12080)."),
    "disk": Cause("load", "OSError: [Errno 28] No space left on device"),
    "cache": Cause("load", "PermissionError: [Errno 13] Permission denied: '/.cache'"),
    "broken-weights": Cause("load", "safetensors_rust.SafetensorError: Error while deserializing header"),
    "weights": Cause(
        "load",
        f'  File "{_SITE}/vllm/v1/worker/gpu_worker.py", line 212, in load_model\n'
        "    self.model_runner.load_model()\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB.",
    ),
    "warm-up": Cause(
        "load", "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests."
    ),
    "old-gpu": Cause("load", "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
    "dtype": Cause(
        "load", "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0."
    ),
    "gpu-fault": Cause("load", "RuntimeError: CUDA error: uncorrectable ECC error encountered"),
    "nccl": Cause("load", "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)"),
}  # fmt: skip
