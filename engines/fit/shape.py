"""A model's `config.json` to what of it takes memory. Pure.

Facts from vLLM 0.32: `transformers_utils/model_arch_config_convertor.py` (heads, head size, MLA), `engine/arg_utils.py`
(a `sliding_window` without `layer_types` counts for all layers), and from the configuration classes of transformers
5.19 (what a file that does not name a field means).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


class ShapeUnknown(ValueError):
    """The file does not say what is needed. The message is one sentence for people."""


@dataclass(frozen=True)
class Layers:
    """`count` layers that keep the same of each token: `values` numbers for each of `kv_heads` heads.

    `window`: how many tokens back a layer looks; None: it keeps all. `chunked`: the window does not slide, it begins
    anew (Llama 4). MLA keeps one vector for all heads: `kv_heads` is 1.
    """

    count: int
    kv_heads: int
    values: int
    window: int | None = None
    chunked: bool = False


@dataclass(frozen=True)
class Shape:
    """What of a model takes memory. Lengths are tokens, sizes are numbers of values."""

    model_type: str
    layers: tuple[Layers, ...]
    """() for models that keep nothing between tokens, such as BERT."""
    attention_heads: int
    kv_heads: int
    """As tensor parallelism divides them; 1 with MLA."""
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool
    max_model_len: int | None
    """The longest request that the model takes; None: the file does not say."""
    default_max_model_len: int
    """What vLLM takes where nothing is asked for."""
    quantization: str
    """The files' own, such as `fp8` or `awq`; "" for none."""
    fp8_kv_cache: bool
    """The files ask for an 8-bit KV cache."""
    experts: int = 0
    """In each layer of a mixture of experts; 0: it is none."""
    expert_size: int = 0
    """What `intermediate_size` is to one of them."""
    state_layers: int = 0
    """Layers with a state per request instead of a KV cache (Mamba, linear attention); its size is not computed."""
    unknown: tuple[str, ...] = ()
    """What is not counted, each a sentence: what is computed is then the least that is needed."""


# Fields that a file may leave out because the configuration class has them.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "cohere2": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "falcon": {"multi_query": True, "max_position_embeddings": 2048},
    "gemma": {"head_dim": 256},
    "gemma2": {
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096,
        "sliding_window_pattern": 2, "max_position_embeddings": 8192, "vocab_size": 256_000,
    },
    "gemma3_text": {
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096,
        "sliding_window_pattern": 6, "max_position_embeddings": 131_072, "vocab_size": 262_208,
    },
    "gpt_oss": {"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128, "sliding_window_pattern": 2},
    "llama4_text": {
        "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
        "attention_chunk_size": 8192, "hidden_size": 5120,
    },
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8},
}  # fmt: skip

# Other names of the same thing; the first that is there counts.
_NAMES = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads"),
    "num_key_value_heads": (
        "n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups",
    ),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_hidden_size", "d_ff", "ffn_dim"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "expert_size": ("moe_intermediate_size", "intermediate_size"),
}  # fmt: skip
_LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
_INNER = ("text_config", "llm_config", "language_config", "thinker_config")
_ENCODERS = frozenset({
    "albert", "bert", "distilbert", "electra", "gte", "modernbert", "mpnet", "new", "nomic_bert", "roberta",
    "xlm-roberta",
})  # fmt: skip
_STATE_ONLY = frozenset({"falcon_mamba", "mamba", "mamba2", "rwkv"})
_MLA = frozenset({
    "axk1", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa",
    "kimi_k2", "kimi_linear", "longcat_flash", "pangu_ultra_moe",
})  # fmt: skip
# vLLM leaves the length as it is for these; for others `factor` counts.
_LENGTH_IS_SCALED = frozenset({"deepseek_llama_scaling", "deepseek_yarn", "llama3", "longrope", "su", "yarn"})
MOST_LAYERS = MOST_EXPERTS = 10_000
LARGEST = 2**31
"""No size in a real file is larger; a larger one would only make arithmetic slow."""

FULL, SLIDING, CHUNKED, STATE, NONE = "full", "sliding", "chunked", "state", "none"
_KINDS = {
    "attention": FULL, "full_attention": FULL, "global": FULL, "global_attention": FULL, "*": FULL, "hybrid": FULL,
    "sliding_attention": SLIDING, "local": SLIDING, "sliding": SLIDING, "chunked_attention": CHUNKED,
    "linear_attention": STATE, "mamba": STATE, "mamba2": STATE, "conv": STATE, "recurrent": STATE, "M": STATE,
    "mlp": NONE, "moe": NONE, "-": NONE, "E": NONE,
}  # fmt: skip


def read_shape(config: Any) -> Shape:
    """`config`: the parsed file. Raises ShapeUnknown."""
    if not isinstance(config, dict):
        raise ShapeUnknown("Its config.json is no JSON object.")
    text = text_config(config)
    model_type = str(text.get("model_type") or config.get("model_type") or "")
    heads = _number(text, "num_attention_heads")
    quantization = _quantization(config, text)
    longest, default = _max_model_len(config, text, model_type)
    common = {
        "model_type": model_type,
        "hidden_size": _number(text, "hidden_size") or 0,
        "intermediate_size": _number(text, "intermediate_size") or 0,
        "vocab_size": _number(text, "vocab_size") or _number(config, "vocab_size") or 0,
        "experts": min(_number(text, "experts") or 0, MOST_EXPERTS),
        "expert_size": _number(text, "expert_size") or 0,
        "tied_embeddings": bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        "max_model_len": longest,
        "default_max_model_len": default,
        "quantization": str(quantization.get("quant_method") or "")[:40].lower(),
        "fp8_kv_cache": _fp8_kv_cache(quantization),
    }
    if model_type in _ENCODERS:
        return Shape(layers=(), attention_heads=heads or 1, kv_heads=heads or 1, **common)
    count = min(_needed(text, "num_hidden_layers"), MOST_LAYERS)
    if model_type in _STATE_ONLY:
        return Shape(layers=(), attention_heads=1, kv_heads=1, state_layers=count, **common)
    if heads is None:
        raise ShapeUnknown("Its config.json does not say num_attention_heads.")
    kinds = Counter(_kinds(text, model_type, count))
    full, other = _full_layer(text, model_type, heads), _windowed_layer(text, model_type, heads)
    layers = [
        Layers(kinds[FULL], *full),
        Layers(kinds[SLIDING], *other, window=_window(text)),
        Layers(kinds[CHUNKED], *other, window=_plain(text, "attention_chunk_size"), chunked=True),
    ]
    return Shape(
        layers=tuple(kind for kind in layers if kind.count),
        attention_heads=heads,
        kv_heads=full[0],
        state_layers=kinds[STATE],
        unknown=_unknown(text),
        **common,
    )


def text_config(config: Config) -> dict[str, Any]:
    """The language model's part of a multimodal model's file, with what its class says where the file is silent."""
    inner: dict[str, Any] = dict(config)
    for _ in range(3):  # thinker_config -> text_config
        found = next((inner[name] for name in _INNER if isinstance(inner.get(name), dict)), None)
        if found is None:
            break
        inner = found
    given = {name: value for name, value in inner.items() if value is not None or name == "sliding_window"}
    model_type = given.get("model_type") or config.get("model_type")
    return {**_DEFAULTS.get(model_type, {}), **given} if isinstance(model_type, str) else given


def _kinds(text: Config, model_type: str, count: int) -> list[str]:
    """The kind of each layer that keeps something of its own, in order."""
    kinds = _named_kinds(text, count) or _patterned_kinds(text, model_type, count)
    if kinds is None:
        kinds = [SLIDING if _window(text) else FULL] * count
    if _window(text) is None:
        kinds = [FULL if kind == SLIDING else kind for kind in kinds]
    if _plain(text, "attention_chunk_size") is None:
        kinds = [FULL if kind == CHUNKED else kind for kind in kinds]
    shared = _plain(text, "num_kv_shared_layers") or 0  # the last ones read what earlier ones keep
    return kinds[: max(count - shared, 0)]


def _named_kinds(text: Config, count: int) -> list[str] | None:
    for name in ("layer_types", "layers_block_type", "hybrid_override_pattern"):
        named = text.get(name)
        if isinstance(named, (list, str)) and len(named) >= count:
            return [_KINDS.get(kind, FULL) if isinstance(kind, str) else FULL for kind in named[:count]]
    return None


def _patterned_kinds(text: Config, model_type: str, count: int) -> list[str] | None:
    every = _plain(text, "sliding_window_pattern")
    if model_type == "gpt_oss":
        return [FULL if number % 2 else SLIDING for number in range(count)]
    if every and _window(text):
        return [SLIDING if (number + 1) % every else FULL for number in range(count)]
    if model_type == "llama4_text":
        rope = text.get("no_rope_layers")
        rope = rope if isinstance(rope, list) and len(rope) >= count else [(n + 1) % 4 for n in range(count)]
        return [CHUNKED if rope[number] else FULL for number in range(count)]
    if every := _plain(text, "full_attention_interval"):  # Qwen3-Next
        return [STATE if (number + 1) % every else FULL for number in range(count)]
    if every := _plain(text, "attn_layer_period"):  # Jamba
        offset = _plain(text, "attn_layer_offset") or 0
        return [FULL if number % every == offset else STATE for number in range(count)]
    linear = text.get("linear_attn_config")
    if isinstance(linear, dict) and isinstance(full := linear.get("full_attn_layers"), list):  # Kimi Linear, from 1
        return [FULL if number + 1 in full else STATE for number in range(count)]
    if text.get("use_sliding_window") and (first := _plain(text, "max_window_layers")) is not None:  # Qwen 2
        return [SLIDING if number >= first else FULL for number in range(count)]
    return None


def _full_layer(text: Config, model_type: str, heads: int) -> tuple[int, int]:
    """(KV heads, values of each in one token) of a layer that keeps all tokens."""
    rank = _plain(text, "kv_lora_rank")
    if model_type in _MLA and rank:
        return 1, rank + (_plain(text, "qk_rope_head_dim") or 0)
    if size := _plain(text, "global_head_dim"):  # Gemma 4
        return _plain(text, "num_global_key_value_heads") or _kv_heads(text, model_type, heads), 2 * size
    return _windowed_layer(text, model_type, heads)


def _windowed_layer(text: Config, model_type: str, heads: int) -> tuple[int, int]:
    size = _plain(text, "head_dim") or _plain(text, "hidden_size_per_head") or _plain(text, "attention_head_dim")
    if not size:
        size = _needed(text, "hidden_size") // heads
    value_size = _plain(text, "v_head_dim") if "swa" in model_type else None
    return _kv_heads(text, model_type, heads), size + (value_size or size)


def _kv_heads(text: Config, model_type: str, heads: int) -> int:
    if model_type in ("falcon", "RefinedWebModel", "RefinedWeb", "gpt_bigcode") and (
        text.get("multi_query") and not text.get("new_decoder_architecture")
    ):
        return 1
    attention = text.get("attn_config")  # DBRX
    if isinstance(attention, dict) and (found := _plain(attention, "kv_n_heads")):
        return found
    return _number(text, "num_key_value_heads") or heads


def _window(text: Config) -> int | None:
    return None if text.get("use_sliding_window") is False else _plain(text, "sliding_window")


def _max_model_len(config: Config, text: Config, model_type: str) -> tuple[int | None, int]:
    """(the longest, what vLLM takes where nothing is asked for)."""
    lengths = [found for name in _LENGTHS if (found := _plain(text, name))]
    if not lengths:
        return None, 2048
    length: float = _plain(text, "model_max_length") or min(lengths)
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    if isinstance(rope, dict) and "gemma3" not in model_type:
        kind = rope.get("rope_type") or rope.get("type") or ""
        if kind == "longrope":
            return int(length), _plain(config, "original_max_position_embeddings") or int(length)
        factor = rope.get("factor")
        if kind not in _LENGTH_IS_SCALED and isinstance(factor, (int, float)) and 0 < factor <= 1024:
            length *= factor
    return int(length), int(length)


def _quantization(config: Config, text: Config) -> dict[str, Any]:
    for where in (config, text):
        for name in ("quantization_config", "compression_config"):
            if isinstance(found := where.get(name), dict):
                return found
    return {}


def _fp8_kv_cache(quantization: Config) -> bool:
    inner = quantization.get("quantization")
    scheme = quantization.get("kv_cache_scheme") or quantization.get("kv_cache_quant_algo")
    if not scheme and isinstance(inner, dict):
        scheme = inner.get("kv_cache_scheme") or inner.get("kv_cache_quant_algo")
    if isinstance(scheme, dict):
        return scheme.get("num_bits") == 8 and scheme.get("type") == "float"
    return isinstance(scheme, str) and scheme.lower() == "fp8"


def _unknown(text: Config) -> tuple[str, ...]:
    found = []
    if text.get("index_head_dim") or text.get("compress_ratios"):
        found.append("What its sparse attention keeps beside the KV cache is not counted.")
    if text.get("is_encoder_decoder"):
        found.append("What its encoder keeps for the decoder is not counted.")
    if text.get("block_configs"):
        found.append("Its layers differ from each other in ways that are not counted.")
    return tuple(found)


def _number(text: Config, name: str) -> int | None:
    return next((found for other in _NAMES[name] if (found := _plain(text, other))), None)


def _needed(text: Config, name: str) -> int:
    if (found := _number(text, name)) is None:
        raise ShapeUnknown(f"Its config.json does not say {name}.")
    return found


def _plain(text: Config, name: str) -> int | None:
    """A positive whole number, else None."""
    value = text.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST else None
