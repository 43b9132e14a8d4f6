"""How engines come up: QUEUED -> FETCHING (of the hub) -> QUEUED -> PLACED -> PULLING (docker) -> STARTING -> LOADING.

Each step looks at the row, does one thing that can be repeated, and moves the row by compare-and-swap. So a step that
was cut short by a `kill -9` is done again by whoever comes next, and a stop that arrives at any moment wins: the next
move fails, and nothing goes on.
"""

import logging
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from engines import (
    adapter_files,
    adapters,
    compile_cache,
    ending,
    fetching,
    hints,
    lifecycle,
    queueing,
    restarting,
    room,
    sleeping,
)
from engines.diagnosis import Diagnosis, diagnose, one_line
from engines.errors import StartFailed
from engines.launchers import choice
from engines.launchers.base import LaunchSpec, Observation, Status
from engines.models import Engine, Gpu
from engines.placement import SLICES, choose
from engines.states import COMING_UP, Desired, State
from engines.turns import turn
from engines.vllm_command import EngineOptions, HostOptions, build_argv, build_env
from vllm_portal.config import get_config
from vllm_portal.encryption import decrypt
from vllm_portal.errors import OperatorError
from vllm_portal.secret_keys import portal_id

logger = logging.getLogger(__name__)

BEHIND = {
    True: "waiting for slots, behind engines that come first",
    False: "waiting for GPUs, behind engines that come first",
}
"""`detail` by whether it waits for the CPU: it has what it needs, and others come before it."""


class _Overtaken(Exception):
    """The engine is not to come up any more; thrown through a launcher that pulls."""


def launch(engine_id: uuid.UUID) -> None:
    """Takes the engine as far as it goes now. Does nothing where somebody else is at it, or nothing is to be done.
    Never raises LauncherError: the reconciler comes back until the deadline."""
    with turn(f"launch:{engine_id}") as mine:
        engine = _coming_up(engine_id) if mine else None
        while engine is not None and _step(engine):
            pass


def waits_its_turn(engine: Engine) -> bool:
    """It has been told so, and there is nothing else to do for it before `next_in_line` names it."""
    return engine.state == State.QUEUED and engine.detail == BEHIND[engine.on_cpu] and not engine.cause_code


def next_in_line(on_cpu: bool) -> list[uuid.UUID]:
    """Whose turn it is; where nothing is known that they could wait for, all. Two queries."""
    if on_cpu:
        usable = get_config().cpu_slots or 0
    else:
        usable = sum(not gpu.is_taken for gpu in Gpu.objects.filter(present=True))
    return queueing.first(queueing.line(on_cpu, timezone.now()), usable)


def launch_spec(engine: Engine) -> LaunchSpec:
    """Raises OperatorError when the secrets cannot be read."""
    config = get_config()
    options = EngineOptions(
        model=engine.model,
        served_names=(engine.model, engine.name),
        tokenizer_revision=engine.tokenizer_revision,
        sleeps=engine.sleep_level > 0,
        **{**engine.options, "adapters": adapter_files.modules(engine)},
        max_lora_rank=adapter_files.rank(engine) if engine.adapters else adapters.LEAST_RANK,
    )
    host = HostOptions(
        device=engine.device,
        trust_remote_code=config.trust_remote_code,
        extra_args=tuple(config.engine_extra_args),
        extra_env=tuple(config.engine_env.items()),
        hf_endpoint=config.hf_endpoint,
        hf_offline=config.hf_offline,
        cpu_kv_cache_gib=config.cpu_kv_cache_gib,
    )
    return LaunchSpec(
        name=engine.container_name,
        portal_id=portal_id(),
        engine_id=str(engine.pk),
        generation=engine.generation,
        argv=build_argv(options, host),
        env=build_env(options, host),
        engine_key=decrypt(engine.engine_key_encrypted),
        hf_token=decrypt(engine.hf_token_encrypted),
        device=engine.device,
        gpu_uuids=tuple(engine.gpu_leases.order_by("gpu__index").values_list("gpu__uuid", flat=True)),
        image=engine.image,
        model_dir=engine.model if engine.model.startswith("/") else None,
        adapter_dirs=adapter_files.folders(engine),
        compile_cache=compile_cache.folder_of(engine),
    )


def _coming_up(engine_id: uuid.UUID) -> Engine | None:
    return Engine.objects.filter(pk=engine_id, state__in=COMING_UP, desired=Desired.RUN).first()


def _step(engine: Engine) -> bool:
    """True: it moved, and there may be more to do."""
    if engine.cause_code:
        ending.finish_failing(engine)
        return False
    steps: dict[str, Callable[[Engine], bool]] = {
        State.QUEUED: _fetch_or_place,
        State.PLACED: _leave_placed,
        State.PULLING: _pull,
        State.FETCHING: _fetch,
        State.STARTING: _start,
    }
    step = steps.get(engine.state)
    if step is None:
        return False
    # A download goes on without anybody who looks, so it is looked at before it is judged.
    if engine.state != State.FETCHING and engine.deadline_at and timezone.now() > engine.deadline_at:
        restarting.fail(engine, timezone.now(), _too_late(engine))
        return False
    return step(engine)


def _fetch_or_place(engine: Engine) -> bool:
    """What it needs comes first, so that no GPU waits for a download."""
    try:
        adapter_files.settle(engine)
    except StartFailed as error:
        restarting.fail(engine, timezone.now(), _diagnosis(error))
        return False
    except OperatorError as error:
        logger.warning("the adapters of engine %s are not asked for: %s", engine.name, error)
    now = timezone.now()
    if not _needs_to_fetch(engine):
        return _place(engine)
    deadline = _in(now, get_config().download_stall_seconds)
    return lifecycle.move(engine, State.QUEUED, State.FETCHING, now, deadline_at=deadline)


def _needs_to_fetch(engine: Engine) -> bool:
    """Once for each generation: what the portal could not fetch then, the engine does."""
    return engine.download is None and fetching.has_some(engine)


def _place(engine: Engine) -> bool:
    """Leases GPUs where the engine needs some and the machine's are known, or slots where the CPU's are bounded."""
    return _place_on_cpu(engine, timezone.now()) if engine.on_cpu else _place_on_gpus(engine, timezone.now())


def _place_on_cpu(engine: Engine, now: datetime) -> bool:
    slots = get_config().cpu_slots
    if slots is None:
        return lifecycle.place(engine, [], now)
    if _others_are_before(engine, slots):
        lifecycle.progress(engine, now, BEHIND[True])
        return False
    free, wanted = room.free_slots(), engine.tensor_parallel_size
    if len(free) < wanted:
        detail = f"waiting for {wanted} free slot{'s' * (wanted > 1)} ({len(free)} of {slots} are free)"
        lifecycle.progress(engine, now, detail)
        return False
    return lifecycle.place(engine, [], now, free[:wanted])


def _place_on_gpus(engine: Engine, now: datetime) -> bool:
    present = list(Gpu.objects.filter(present=True).prefetch_related("leases__engine"))
    if not present and not Gpu.objects.exists():
        return lifecycle.place(engine, [], now)  # whoever starts containers sees the GPUs, and this machine does not
    if not present:
        lifecycle.progress(engine, now, "waiting for the GPUs, which are not seen now: their driver does not answer")
        return False
    usable = [gpu for gpu in present if not gpu.is_taken]
    if _others_are_before(engine, len(usable)):
        lifecycle.progress(engine, now, BEHIND[False])
        return False
    roomy = [gpu for gpu in usable if gpu.free_slices >= engine.gpu_slices]
    free = [gpu for gpu in roomy if not gpu.coming_up]
    chosen = choose(usable, free, engine.tensor_parallel_size)
    if chosen is not None:
        return lifecycle.place(engine, chosen, now)
    if choose(usable, roomy, engine.tensor_parallel_size) is not None:
        names = sorted({name for gpu in roomy for name in gpu.coming_up})
        detail = f"waiting until {' or '.join(names[:3])} has come up on the same GPU, whose memory it measures"
    else:
        detail = _too_few(engine, len(roomy), present)
    lifecycle.progress(engine, now, detail)
    return False


def _too_few(engine: Engine, free: int, present: list[Gpu]) -> str:
    many = f"{engine.tensor_parallel_size} GPU{'s' * (engine.tensor_parallel_size > 1)}"
    if engine.gpu_slices == SLICES:
        detail = f"waiting for {many.replace(' ', ' free ')} ({free} of {len(present)} are free)"
    else:
        share = f"{engine.gpu_memory_utilization:.0%}"
        detail = f"waiting for {share} of the memory of {many} ({free} of {len(present)} have as much left)"
    taken = [str(gpu.index) for gpu in present if gpu.is_taken]
    return detail + (f"; programs that are no engines hold memory of GPU {', '.join(taken)}" if taken else "")


def _others_are_before(engine: Engine, usable: int) -> bool:
    """Nobody overtakes, else many small engines would keep a large one waiting for ever. One that needs more GPUs than
    other programs leave, or more slots than there are, holds up nobody."""
    return engine.pk not in queueing.first(queueing.line(engine.on_cpu, timezone.now()), usable)


def _leave_placed(engine: Engine) -> bool:
    config, now = get_config(), timezone.now()
    # From here on what is started does not depend on settings that may change before it runs.
    columns = {"sleep_level": sleeping.level_for(engine), "slept_at": None}
    if engine.launcher == "docker":
        deadline = _in(now, config.pull_timeout_seconds)
        return lifecycle.move(engine, State.PLACED, State.PULLING, now, deadline_at=deadline, **columns)
    return _fetch_or_start(engine, State.PLACED, **columns)


def _fetch_or_start(engine: Engine, old: State, **columns: Any) -> bool:
    config, now = get_config(), timezone.now()
    if _needs_to_fetch(engine):
        deadline = _in(now, config.download_stall_seconds)
        return lifecycle.move(engine, old, State.FETCHING, now, deadline_at=deadline, **columns)
    deadline = _in(now, config.start_timeout_seconds)
    return lifecycle.move(engine, old, State.STARTING, now, deadline_at=deadline, **columns)


def _pull(engine: Engine) -> bool:
    def progress(line: str) -> None:
        lifecycle.progress(engine, timezone.now(), one_line(line))
        if _coming_up(engine.pk) is None:
            raise _Overtaken

    try:
        choice.launcher(engine.launcher).prepare(launch_spec(engine), progress)
    except _Overtaken:
        return False
    except StartFailed as error:
        restarting.fail(engine, timezone.now(), _diagnosis(error))
        return False
    except OperatorError as error:
        _note(engine, error)
        return False
    return _fetch_or_start(engine, State.PULLING)


def _fetch(engine: Engine) -> bool:
    """Looks at the download, and waits for nothing: whoever comes next looks again."""
    try:
        seen = fetching.look(engine, timezone.now())
    except OperatorError as error:
        logger.warning("the model of engine %s is not fetched: %s", engine.name, error)
        seen = True  # the start has the same trouble, and a deadline for it
    if isinstance(seen, Diagnosis):
        restarting.fail(engine, timezone.now(), seen)
        return False
    if not seen:
        return False
    now = timezone.now()
    download = fetching.end_of(engine, now)
    if not lifecycle.holds_a_place(engine):
        return lifecycle.get_in_line(engine, now, download=download)
    deadline = _in(now, get_config().start_timeout_seconds)
    return lifecycle.move(engine, State.FETCHING, State.STARTING, now, deadline_at=deadline, download=download)


def _start(engine: Engine) -> bool:
    """Nobody ends the container while it is being made, and nobody makes one for an engine that is to end: both need
    the container's turn and look at the row once they have it."""
    with turn(ending.container_turn(engine.pk)) as mine:
        current = _coming_up(engine.pk) if mine else None
        if current is None or current.state != State.STARTING:
            return False
        engine = current
        try:
            launcher = choice.launcher(engine.launcher)
            compile_cache.make(engine)
            seen = launcher.start(launch_spec(engine))
            if seen.status is Status.RUNNING:
                _started(engine, seen)
                return False
            failure = diagnose(launcher.logs(engine.container_name), seen)
        except StartFailed as error:
            failure = _diagnosis(error)
        except OperatorError as error:
            _note(engine, error)
            return False
    restarting.fail(engine, timezone.now(), failure)
    return False


def _started(engine: Engine, seen: Observation) -> None:
    now = timezone.now()
    columns = {"container_id": seen.container_id, "host": seen.host, "port": seen.port}
    columns["image_digest"] = seen.image_digest[:100]
    deadline = _in(now, get_config().load_stall_seconds)
    if lifecycle.move(engine, State.STARTING, State.LOADING, now, deadline_at=deadline, **columns):
        hints.check(engine.pk)
    else:
        ending.clear_away_if_ended(engine)


def _note(engine: Engine, error: OperatorError) -> None:
    logger.warning("engine %s does not come up yet, %s: %s", engine.name, engine.state, error)
    lifecycle.progress(engine, timezone.now(), f"tries again: {one_line(str(error))}")


def _diagnosis(error: StartFailed) -> Diagnosis:
    return Diagnosis(error.code, one_line(str(error)), one_line(error.advice))


def _too_late(engine: Engine) -> Diagnosis:
    config = get_config()
    if engine.state == State.PULLING:
        cause, setting = "What it needs did not come", f"pull_timeout_seconds ({config.pull_timeout_seconds})"
    else:
        cause, setting = (
            "Its container or process did not start",
            f"start_timeout_seconds ({config.start_timeout_seconds})",
        )
    last = f" Last: {engine.detail}." if engine.detail else ""
    return Diagnosis(
        "launch_timeout",
        f"{cause} within {setting}.{last}",
        "Start it again once the portal's operator sees to it.",
        {},
    )


def _in(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)
