"""What vLLM takes of each GPU for LoRA adapters: an estimate. Pure.

vLLM 0.32 makes room before it measures (`lora/model_manager.py`, `lora/layers/`): for each of `--max-loras` adapters
two matrices of `--max-lora-rank` beside every linear layer, the embedding and the head, whichever of them an adapter
has. With tensor parallelism one of the two is shared out. Layers are taken to be those of a Llama or of a mixture of
experts; others have fewer matrices, seldom more.
"""

from dataclasses import dataclass

from engines.fit.shape import Shape


@dataclass(frozen=True)
class Lora:
    """`slots`: --max-loras. `rank`: --max-lora-rank."""

    slots: int
    rank: int


def buffer_bytes(shape: Shape, lora: Lora | None, tensor_parallel_size: int, value_bytes: int = 2) -> int:
    """Of each GPU. `value_bytes`: of one weight."""
    if lora is None:
        return 0
    layers = sum(kind.count for kind in shape.layers) + shape.state_layers
    wide = layers * (_attention(shape, tensor_parallel_size) + _mlp(shape, tensor_parallel_size))
    ends = 2 * (shape.hidden_size + shape.vocab_size)
    return lora.slots * lora.rank * value_bytes * (wide + ends)


def _attention(shape: Shape, size: int) -> int:
    """Numbers for each unit of the rank: of query, key, value and output."""
    head = shape.hidden_size // max(shape.attention_heads, 1)
    if shape.layers and shape.kv_heads > 1:
        head = shape.layers[0].values // 2
    query, other = shape.attention_heads * head // size, max(shape.kv_heads // size, 1) * head
    return 4 * shape.hidden_size + 2 * query + 2 * other


def _mlp(shape: Shape, size: int) -> int:
    """Of gate, up and down, of each expert."""
    width = (shape.expert_size if shape.experts else 0) or shape.intermediate_size or 4 * shape.hidden_size
    return max(shape.experts, 1) * 3 * (shape.hidden_size + width // size)
