"""An engine that failed is started once more, with what may cure it."""

from typing import Any

from engines import sharing
from engines.causes.base import Change
from engines.diagnosis import Diagnosis
from engines.models import Engine, Gpu
from vllm_portal.encryption import decrypt
from vllm_portal.errors import FieldError

_NEEDS_MORE_GPUS = frozenset({"weights_too_large", "gpu_out_of_memory", "warm_up_out_of_memory", "kv_cache_too_small"})
_NEEDS_FEWER_GPUS = frozenset({"quantization_misaligned", "not_enough_gpus"})
_TOKEN = "hugging_face_hub_token"  # noqa: S105 - a field's name


def change_for(engine: Engine, diagnosis: Diagnosis) -> Change | None:
    """The diagnosis' change, or what the engine's own options and the GPUs that are here allow. {}: the same start
    again may work; None: nothing that its owner can change, or it has been so already."""
    change = diagnosis.change
    if change is None:
        return _other_size(engine, diagnosis.code)
    fresh = {option: value for option, value in change.items() if (getattr(engine, option) or None) != value}
    return fresh if fresh or not change else None


def form(engine: Engine, given: dict[str, Any]) -> dict[str, Any]:
    """What `POST /api/v1/engines` would take to start it once more: its options, changed by what its diagnosis says,
    changed by `given`. The model stays. Raises FieldError where its token is needed and no longer kept."""
    same = {
        **engine.options,
        "shared": engine.shared,
        "lease_hours": engine.lease_hours,
        "idle_minutes": engine.idle_minutes,
        "sleep_minutes": engine.sleep_minutes,
        "wakes": engine.wakes,
        **sharing.names(engine),
    }
    body = {**same, **(engine.change or {}), **given, "model": engine.model}
    if not body.get(_TOKEN):
        body[_TOKEN] = _kept_token(engine, asked_without=_TOKEN in given)
    return body


def advice_for(engine: Engine, diagnosis: Diagnosis) -> str:
    """The diagnosis' advice; before it what `change_for` offers to an engine that had a share of its GPU."""
    if diagnosis.change is None and _wants_the_whole_gpu(engine, diagnosis.code):
        return f"Start it without GPU_MEMORY_UTILIZATION, so that all of its GPU is its own. Or: {diagnosis.advice}"
    return diagnosis.advice


def _wants_the_whole_gpu(engine: Engine, code: str) -> bool:
    return code in _NEEDS_MORE_GPUS and engine.gpu_memory_utilization is not None


def _other_size(engine: Engine, code: str) -> Change | None:
    if _wants_the_whole_gpu(engine, code):
        return {"gpu_memory_utilization": None}
    size = engine.tensor_parallel_size
    if code in _NEEDS_MORE_GPUS and size * 2 <= Gpu.objects.filter(present=True).count():
        return {"tensor_parallel_size": size * 2}
    if code in _NEEDS_FEWER_GPUS and size > 1:
        return {"tensor_parallel_size": size // 2}
    return None


def _kept_token(engine: Engine, asked_without: bool) -> str:
    """An engine that has ended has forgotten its token."""
    if asked_without:
        return ""
    token = decrypt(engine.hf_token_encrypted)
    if engine.hf_account and not token:
        raise FieldError(_TOKEN, "The engine was started with a token, which is not kept after its end: give it again.")
    return token
