"""An engine that died after it was ready is started afresh in its place, a few times in a row and with growing pauses:
decision 0031.

READY, UNHEALTHY ── dead, or no answer for too long ── STOPPING ── pause ── PLACED, the next generation ── … ── READY
"""

from dataclasses import replace
from datetime import datetime, timedelta

from engines import ending
from engines.diagnosis import Diagnosis
from engines.models import Engine
from engines.states import COMING_UP, State
from vllm_portal.config import get_config

CERTAIN = frozenset(
    {
        # the model, its adapters, and who may have them
        *("model_gated", "token_invalid", "model_not_cached", "model_not_found", "model_folder_missing"),
        *("weights_broken", "weights_wrong", "no_weights", "no_config", "no_model_folder", "needs_remote_code"),
        *("adapter_missing", "adapter_mismatch", "adapter_unsupported", "adapters_unsupported"),
        *("adapter_rank_too_large", "tokenizer_unusable"),
        # what it was told, and what this vLLM or this GPU can do
        *("max_model_len_too_large", "arguments_wrong", "model_unsupported", "gpu_unsupported", "dtype_unsupported"),
        *("quantization_wrong", "quantization_misaligned", "tensor_parallel_wrong"),
        # the machine
        *("image_missing", "image_unusable", "vllm_missing", "vllm_broken", "no_compiler", "driver_too_old"),
        *("bad_setting", "no_network", "cache_not_a_folder", "cache_not_writable"),
    }
)
"""Codes of causes that the same start has again until somebody changes something. All others may pass by themselves,
among them a lack of memory that there was before."""
STEADY = timedelta(minutes=10)
"""Who was ready for so long has begun anew: earlier deaths count no longer."""


def has_died(engine: Engine, now: datetime, diagnosis: Diagnosis) -> bool:
    """Nothing of it runs any more, or it is of no use. False: it is not started again, and has failed."""
    number = _number(engine, now, diagnosis)
    if number is None:
        return False
    most = get_config().engine_restarts
    return ending.start_afresh(engine, now, f"{number} of {most} times: {diagnosis.cause}", restarts=number)


def fail(engine: Engine, now: datetime, diagnosis: Diagnosis) -> None:
    """It has failed, unless it is started afresh."""
    if not has_died(engine, now, diagnosis):
        ending.fail(engine, told(engine, diagnosis))


def told(engine: Engine, diagnosis: Diagnosis) -> Diagnosis:
    """Of one that has failed: also how often it was tried."""
    if not engine.restarts:
        return diagnosis
    times = "once" if engine.restarts == 1 else f"{engine.restarts} times in a row"
    return replace(diagnosis, cause=f"{diagnosis.cause} It was started again {times}.")


def _number(engine: Engine, now: datetime, diagnosis: Diagnosis) -> int | None:
    """Which restart in a row this would be; None: none. A start that fails by itself has a cause that a second one
    would have, too; one that is a restart's may not, unless its cause is certain."""
    if engine.state in COMING_UP - {State.QUEUED}:
        number = engine.restarts + 1 if engine.restarts and diagnosis.code not in CERTAIN else None
    elif engine.state in (State.READY, State.UNHEALTHY):
        was_well = engine.state_since if engine.state == State.UNHEALTHY else now
        steady = engine.ready_at is not None and was_well - engine.ready_at >= STEADY
        number = 1 if steady else engine.restarts + 1
    else:
        number = None
    return number if number is not None and number <= get_config().engine_restarts else None
