#!/usr/bin/env python3
"""Write a LoRA adapter with random weights for a model of make_tiny_model.py, as PEFT would save it.

    make_tiny_adapter.py MODEL OUT [--rank N] [--seed N] [--modules q_proj,v_proj] [--scale X] [--hidden N]

It changes what the model says, and with another seed it says something else again. The same arguments give the same
bytes. Needs nothing but Python: the file format of the weights is a length, a JSON head and numbers.
"""

import argparse
import array
import json
import random
import struct
from pathlib import Path


def shapes(config: dict, modules: list[str], rank: int, hidden: int) -> dict[str, tuple[int, int]]:
    """Of each tensor: A takes the module's input to `rank` numbers, B these to its output."""
    head = hidden // config["num_attention_heads"]
    narrow = head * config["num_key_value_heads"]
    widths = {"q_proj": hidden, "k_proj": narrow, "v_proj": narrow, "o_proj": hidden}
    found = {}
    for layer in range(config["num_hidden_layers"]):
        for module in modules:
            path = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            found[f"{path}.lora_A.weight"] = (rank, hidden)
            found[f"{path}.lora_B.weight"] = (widths.get(module, hidden), rank)
    return found


def write(model: Path, out: Path, rank: int, seed: int, modules: list[str], scale: float, hidden: int | None) -> None:
    config = json.loads((model / "config.json").read_text())
    pick, tensors, content = random.Random(seed), {}, b""
    for name, shape in shapes(config, modules, rank, hidden or config["hidden_size"]).items():
        numbers = array.array("f", (pick.gauss(0, scale) for _ in range(shape[0] * shape[1])))
        place = [len(content), len(content) + 4 * len(numbers)]
        tensors[name] = {"dtype": "F32", "shape": shape, "data_offsets": place}
        content += numbers.tobytes()
    head = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    out.mkdir(parents=True, exist_ok=True)
    (out / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + content)
    told = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(model), "r": rank,
        "lora_alpha": 2 * rank, "lora_dropout": 0.0, "bias": "none", "target_modules": modules,
    }  # fmt: skip
    (out / "adapter_config.json").write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modules", type=lambda text: text.split(","), default=["q_proj", "v_proj"])
    parser.add_argument("--scale", type=float, default=0.5, help="of the random weights; 0.02 changes nearly nothing")
    parser.add_argument("--hidden", type=int, help="the width of another model, which it then does not fit")
    given = parser.parse_args()
    write(given.model, given.out, given.rank, given.seed, given.modules, given.scale, given.hidden)
