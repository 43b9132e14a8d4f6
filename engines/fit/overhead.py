"""What vLLM takes of a GPU beside weights and KV cache: an estimate. Pure.

vLLM measures it at each start, with one pass over a full batch of made-up tokens (`Worker.determine_available_memory`).
The parts here are those of that pass. Their sizes are fitted to starts whose logs are public; all with the settings
that vLLM takes by itself (8192 tokens and 1024 requests in a batch on an H100 with 79.2 GiB, of which it used 0.9):

    model, GPUs                    left for KV cache   so the rest took   this estimate, without graphs
    Qwen3-8B, 1                    50.3 GiB             5.7 GiB             5.8 GiB   [1]
    Qwen3-32B, 2                   33.7 GiB             7.1 GiB             6.9 GiB   [1]
    Llama-3.1-70B, 4               32.1 GiB             6.4 GiB             6.1 GiB   [1]
    gpt-oss-120b, 1                -2.1 GiB             7.4 GiB             6.8 GiB   [2]

[1] LMCache's documentation, "KV Cache Sizes for Popular Models" (October 2025).
[2] github.com/vllm-project/vllm/issues/23278: 66.0 GiB of weights, then -2.14 GiB.
Later versions take less for choosing tokens and count the CUDA graphs in. Until a start on this portal was measured it
is only an estimate.
"""

from dataclasses import dataclass

from engines.fit.flags import GIB
from engines.fit.shape import Shape

LIBRARIES = int(0.35 * GIB)
"""What is not PyTorch's: workspaces of the libraries. 0.35 GiB in github.com/vllm-project/vllm/issues/10517."""
COMMUNICATION = 1 * GIB
"""Buffers of NCCL and of vLLM's own all-reduce, where several GPUs work together."""
GRAPHS = int(0.6 * GIB)
"""CUDA graphs; "Graph capturing finished …, took … GiB" says 0.3 to 1 in most logs."""
SAMPLING_BYTES = 32
"""For each request and word of the vocabulary: the logits in 32 bits, sorted, their places (64 bits), sums, a mask."""
CPU_PROCESSES = int(1.9 * GIB)
"""API server 0.64, core 0.60 and worker 0.65 GiB with a tiny model, measured with vLLM 0.32 on a CPU."""


@dataclass(frozen=True)
class Batch:
    """The largest that vLLM puts together: `tokens` in one pass, `requests` at once."""

    tokens: int
    requests: int


def estimate(shape: Shape, batch: Batch, tensor_parallel_size: int, graphs: bool) -> int:
    """Bytes on each GPU."""
    several = COMMUNICATION if tensor_parallel_size > 1 else 0
    return LIBRARIES + several + _activations(shape, batch, tensor_parallel_size) + (GRAPHS if graphs else 0)


def estimate_cpu(shape: Shape, batch: Batch, tensor_parallel_size: int) -> int:
    """Bytes of the machine's memory for each of the engine's workers."""
    return CPU_PROCESSES + _activations(shape, batch, tensor_parallel_size)


def _activations(shape: Shape, batch: Batch, tensor_parallel_size: int) -> int:
    """The widest moments of a pass: inside an MLP (gate, up and their product, shared out), and choosing tokens."""
    intermediate = shape.intermediate_size or 4 * shape.hidden_size
    values = 3 * intermediate // tensor_parallel_size + 4 * shape.hidden_size
    return 2 * batch.tokens * values + SAMPLING_BYTES * batch.requests * shape.vocab_size
