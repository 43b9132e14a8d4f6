"""What was measured at the last starts of a recipe's kind, whoever made them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from django.db.models import F, Window
from django.db.models.functions import RowNumber

from engines import starts
from engines.models import Engine
from engines.recipe_models import Recipe

STARTS = 10
"""As many of the latest of each kind count."""
_TOKENS = re.compile(r"([\d,]{1,20}) tokens")


@dataclass(frozen=True)
class Measured:
    """`starts`: how many these come from. None: none of them told."""

    starts: int = 0
    load_s: float | None = None
    """The median, from a start's place until it is ready: without the time that it waited for GPUs."""
    tokens_per_s: float | None = None
    """The most that one of them was seen to generate."""
    kv_cache_tokens: int | None = None
    """Of the latest."""

    @property
    def told(self) -> list[str]:
        """Each in a few words."""
        said = []
        if self.load_s is not None:
            said.append(f"ready after {self.load_s:.0f} s")
        if self.tokens_per_s is not None:
            said.append(f"up to {self.tokens_per_s:,.0f} tokens/s")
        if self.kv_cache_tokens is not None:
            said.append(f"{self.kv_cache_tokens:,} tokens of KV cache")
        return said


def of(recipes: Sequence[Recipe]) -> dict[int, Measured]:
    """By the recipes' keys. Two queries, however many they are."""
    ready = Engine.objects.filter(kind__in={recipe.kind for recipe in recipes}, ready_at__isnull=False)
    ready = ready.annotate(
        turn=Window(RowNumber(), partition_by=F("kind"), order_by=[F("ready_at").desc(), F("pk").desc()])
    )
    by_kind: defaultdict[str, list[Engine]] = defaultdict(list)
    for engine in ready.filter(turn__lte=STARTS).order_by("-ready_at", "-pk").prefetch_related("events"):
        by_kind[engine.kind].append(engine)
    return {recipe.pk: _measured(by_kind[recipe.kind]) for recipe in recipes}


def _measured(engines: list[Engine]) -> Measured:
    """`engines`: the latest first."""
    loads = [seconds for engine in engines if (seconds := starts.load_s(engine)) is not None]
    speeds = [engine.peak_tokens_per_s for engine in engines if engine.peak_tokens_per_s is not None]
    caches = [tokens for engine in engines if (tokens := _cache_tokens(engine)) is not None]
    return Measured(
        len(engines), round(median(loads), 1) if loads else None, max(speeds, default=None), next(iter(caches), None)
    )


def _cache_tokens(engine: Engine) -> int | None:
    """As its log said, of which `starts.record` keeps the words."""
    for name, _, words in engine.phases:
        if name == "kv_cache" and (told := _TOKENS.search(words)):
            return int(told[1].replace(",", "") or 0)
    return None
