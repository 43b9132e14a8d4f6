"""A tiny model as a folder: a real config.json and safetensors files without numbers worth reading."""

import json
import struct
from pathlib import Path

LAYERS, HIDDEN, HEADS, KV_HEADS, VOCAB = 2, 128, 4, 2, 1024
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN,
    "intermediate_size": 256, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB,
    "max_position_embeddings": 2048, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def safetensors(dtype: str = "BF16", **shapes: list[int]) -> bytes:
    """A file of zeros with these tensors."""
    size = {"BF16": 2, "F32": 4, "U8": 1}[dtype]
    tensors, at = {}, 0
    for name, shape in shapes.items():
        end = at + size * shape[0] * shape[1]
        tensors[name], at = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}, end
    head = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(at)


def write_model(folder: Path, **config: object) -> Path:
    """The folder, with one file of VOCAB * HIDDEN weights twice."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "model.safetensors").write_bytes(safetensors(embed=[VOCAB, HIDDEN], head=[VOCAB, HIDDEN]))
    return folder
