"""How much KV cache a request needs on each GPU, counted as vLLM counts it. Pure.

Facts from vLLM 0.32: `v1/kv_cache_interface.py` (`max_memory_usage_bytes` of the specs) and `v1/core/kv_cache_utils.py`
(`_get_kv_cache_groups_uniform_page_size`: layers of different kinds share one pool in groups of the same size, of
which the last may be padded). KV heads are shared out among the GPUs, and repeated where there are fewer than GPUs
(`ModelConfig.get_num_kv_heads`).
"""

from dataclasses import dataclass

from engines.fit.shape import Layers, Shape

BLOCK_TOKENS = 16
BATCHES_IN_FLIGHT = 2
"""With asynchronous scheduling, which is the default (`VllmConfig.max_concurrent_batches`)."""


@dataclass(frozen=True)
class CacheSettings:
    """`value_bytes`: of one number in the cache. `batched_tokens`: vLLM's max_num_batched_tokens."""

    value_bytes: int
    tensor_parallel_size: int
    batched_tokens: int


def bytes_per_token(shape: Shape, settings: CacheSettings) -> int:
    """What one more token costs on each GPU while no window is full."""
    return sum(layers.count * _layer_bytes(layers, settings) for layers in shape.layers)


def bytes_per_distant_token(shape: Shape, settings: CacheSettings) -> int:
    """What one more token costs on each GPU once all windows are full."""
    kept = [layers for layers in shape.layers if layers.window is None]
    return sum(layers.count * _layer_bytes(layers, settings) for layers in kept)


def needed_bytes(shape: Shape, length: int, settings: CacheSettings) -> int:
    """What one request of `length` tokens takes on each GPU; never less for a longer one."""
    if not shape.layers:
        return 0
    sizes = {_layer_bytes(layers, settings) for layers in shape.layers}
    if len(shape.layers) == 1 or len(sizes) > 1:
        return sum(
            _blocks(layers, length, settings) * BLOCK_TOKENS * layers.count * _layer_bytes(layers, settings)
            for layers in shape.layers
        )
    group = _group_size([layers.count for layers in shape.layers])
    blocks = sum(-(-layers.count // group) * _blocks(layers, length, settings) for layers in shape.layers)
    return blocks * BLOCK_TOKENS * group * sizes.pop()


def longest_that_fits(shape: Shape, available: float, limit: int, settings: CacheSettings, factor: float = 1.0) -> int:
    """The largest length up to `limit` of which one request fits into `available` bytes; 0: not even one token.
    `factor`: by how much a measurement corrects what is computed."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if needed_bytes(shape, middle, settings) * factor <= available:
            low = middle
        else:
            high = middle - 1
    return low


def _layer_bytes(layers: Layers, settings: CacheSettings) -> int:
    """Of one token in one layer on one GPU."""
    heads = max(1, layers.kv_heads // settings.tensor_parallel_size)
    return heads * layers.values * settings.value_bytes


def _blocks(layers: Layers, length: int, settings: CacheSettings) -> int:
    if layers.window is None:
        return -(-length // BLOCK_TOKENS)
    in_flight = BATCHES_IN_FLIGHT * settings.batched_tokens
    if layers.chunked:
        return -(-min(layers.window + in_flight, length) // BLOCK_TOKENS)
    # One more, because a window seldom begins where a block does.
    return -(-min(layers.window - 1 + in_flight, length) // BLOCK_TOKENS) + 1


def _group_size(counts: list[int]) -> int:
    """As many layers as the rarest kind has, or as the most frequent has where that is hardly more."""
    least, most = min(counts), max(counts)
    return most if most < least * 1.5 else least
