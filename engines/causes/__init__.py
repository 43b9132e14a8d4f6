"""What vLLM and what it stands on say when a start fails, and what that means. Pure.

The words are those of vLLM 0.4 to 0.32, PyTorch, Transformers, huggingface_hub and safetensors; where each was seen is
in tests/engines/logs/index.json.
"""

from engines.causes import adapter, hub, machine, memory, model

KNOWN = [*adapter.KNOWN, *memory.KNOWN, *hub.KNOWN, *model.KNOWN, *machine.KNOWN]
"""What is more telling stands first: a worker that runs out of memory also breaks NCCL in the others."""
