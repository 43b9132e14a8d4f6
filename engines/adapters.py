"""LoRA adapters: what a start names, and what their files say. Pure. Decision 0028."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)
"""All that is fetched of a repository: no code, and no weights in Python's pickles."""
MISSING = "adapter_missing"
"""`cause_code` where there is no such adapter, or it has not all of FILES."""
MOST = 8
"""Of one engine: each takes memory of its GPUs."""
LEAST_RANK = 16
"""vLLM's own --max-lora-rank, which the portal never goes below."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM 0.32's choices for --max-lora-rank."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}\Z", re.ASCII)
"""No slash and no colon: it is never taken for a repository, nor for an adapter's full name."""

NO_FOLDER = (
    "hf_cache_dir is a Docker volume, into which the portal cannot put adapters of the Hugging Face hub. An admin "
    "makes it a folder, or puts the adapter below allowed_model_roots."
)


class Adapter(NamedTuple):
    """`name`: its owner's choice. `model`: a repository of the hub, or a folder; `revision`: of the repository."""

    name: str
    model: str
    revision: str = ""

    @property
    def on_hub(self) -> bool:
        return not self.model.startswith("/")

    @property
    def told(self) -> str:
        """For people."""
        return f"{self.model} ({self.name})"


def of(rows: Iterable[Mapping[str, str]]) -> tuple[Adapter, ...]:
    return tuple(Adapter(**row) for row in rows)


def rows(adapters: Iterable[Adapter]) -> list[dict[str, str]]:
    """As columns and JSON have them."""
    return [adapter._asdict() for adapter in adapters]


def as_text(rows: Iterable[Mapping[str, str]]) -> str:
    """One a line, such as `sql=acme/tiny-sql@<commit>`: as the form of a start takes them."""
    return "\n".join(f"{one.name}={one.model}{'@' if one.revision else ''}{one.revision}" for one in of(rows))


def full_name(model: str, adapter: Adapter) -> str:
    """What everybody may call it: no two different things have the same."""
    return f"{model}:{adapter.model}"


def rank_of(config: bytes) -> int:
    """What adapter_config.json says. Raises ValueError for one that vLLM could not use, in words for its owner."""
    try:
        told: Any = json.loads(config)
    except (ValueError, RecursionError):
        raise ValueError(f"its {CONFIG} is no JSON") from None
    if not isinstance(told, dict):
        raise ValueError(f"its {CONFIG} is no JSON object")
    pattern = told.get("rank_pattern") or {}
    ranks = [told.get("r"), *(pattern.values() if isinstance(pattern, dict) else [None])]
    if not all(type(rank) is int and rank > 0 for rank in ranks):
        raise ValueError(f"its {CONFIG} names no rank (r), so it is no LoRA adapter")
    if max(ranks) > RANKS[-1]:
        raise ValueError(f"its rank is {max(ranks)}, and vLLM takes {RANKS[-1]} at most")
    return max(ranks)


def max_lora_rank(ranks: Iterable[int]) -> int:
    """The smallest that vLLM offers and that is enough for all."""
    most = max(ranks, default=1)
    return next(rank for rank in RANKS if rank >= most)
