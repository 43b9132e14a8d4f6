"""What is asked of vLLM at a start: the columns that engines and recipes share."""

import hashlib
import json
from typing import Any

from django.db import models


class StartOptions(models.Model):
    """None or "" means: vLLM decides."""

    model = models.CharField(max_length=300)
    revision = models.CharField(
        max_length=100, blank=True, help_text="The commit of the model's repository, so that it stays what it was."
    )
    tokenizer_revision = models.CharField(max_length=100, blank=True, editable=False)
    max_model_len = models.PositiveIntegerField("longest request, in tokens", null=True, blank=True)
    tensor_parallel_size = models.PositiveSmallIntegerField(default=1)
    seed = models.BigIntegerField(null=True, blank=True)
    tokenizer = models.CharField(max_length=300, blank=True)
    quantization = models.CharField(max_length=40, blank=True)
    gpu_memory_utilization = models.FloatField(
        "share of GPU memory", null=True, blank=True,
        help_text="Of each of its GPUs, 0 to 1; others may use the rest. Null: none may.",
    )  # fmt: skip
    adapters = models.JSONField(default=list, blank=True, help_text="LoRA adapters: name, model and revision of each.")
    launcher = models.CharField(max_length=20)
    device = models.CharField(max_length=10)
    image = models.CharField(max_length=300, blank=True)
    image_digest = models.CharField(
        max_length=100, blank=True, editable=False, help_text="Docker's id of the image that ran; empty: not known."
    )
    vllm_version = models.CharField(
        "version of vLLM", max_length=40, blank=True, editable=False, help_text="As the engine said itself."
    )
    kind = models.CharField(max_length=64, blank=True, db_index=True, editable=False, help_text="Alike starts: a hash.")

    OPTIONS = (
        "revision", "max_model_len", "tensor_parallel_size", "seed", "tokenizer", "quantization",
        "gpu_memory_utilization", "adapters",
    )  # fmt: skip
    """Of those fields that say what vLLM is to do; another engine with the same model and these is the same."""

    class Meta:
        abstract = True

    @property
    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.OPTIONS}


def kind_of(columns: dict[str, Any]) -> str:
    """The same for two starts from which one expects the same: of one model with one set of options on one kind of
    place. Images are left out: an update of vLLM changes little, and a recipe says which it was."""
    alike = [columns[name] for name in ("model", *StartOptions.OPTIONS, "tokenizer_revision", "launcher", "device")]
    return hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()
