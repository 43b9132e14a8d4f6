"""How engines come up: QUEUED -> FETCHING (of the hub), PULLING (docker) -> QUEUED -> PLACED -> STARTING -> LOADING.

Each step looks at the row, does one thing that can be repeated, and moves the row by compare-and-swap. So a step that
was cut short by a `kill -9` is done again by whoever comes next, and a stop that arrives at any moment wins: the next
move fails, and nothing goes on.
"""

import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
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
    placing,
    restarting,
    sleeping,
)
from engines.diagnosis import Diagnosis, diagnose, one_line
from engines.errors import StartFailed
from engines.launchers import choice
from engines.launchers.base import LaunchSpec, Observation, Status
from engines.models import Engine
from engines.states import COMING_UP, Desired, State
from engines.turns import turn
from engines.vllm_command import EngineOptions, HostOptions, build_argv, build_env
from vllm_portal.config import get_config
from vllm_portal.encryption import decrypt
from vllm_portal.errors import OperatorError
from vllm_portal.secret_keys import portal_id

logger = logging.getLogger(__name__)


PULLED_BY_ANOTHER = "its image is being pulled for another engine"


class _Overtaken(Exception):
    """The engine is not to come up any more; thrown through a launcher that pulls."""


def launch(engine_id: uuid.UUID) -> None:
    """Takes the engine as far as it goes now. Does nothing where somebody else is at it, or nothing is to be done.
    Never raises LauncherError: the reconciler comes back until the deadline."""
    with turn(f"launch:{engine_id}") as mine:
        engine = _coming_up(engine_id) if mine else None
        while engine is not None and _step(engine):
            pass


def needs_but_a_place(engines: Iterable[Engine]) -> list[Engine]:
    """Those of them that are QUEUED, have nothing to be fetched before, and were not told what they wait for. A daemon
    is asked once for each image."""
    needy: dict[str, bool] = {}
    found = []
    for engine in engines:
        if engine.state != State.QUEUED or engine.detail or engine.cause_code:
            continue
        if engine.adapters or _needs_to_fetch(engine):
            continue
        if engine.image not in needy:
            needy[engine.image] = _needs_to_pull(engine, unknown=False)
        if not needy[engine.image]:
            found.append(engine)
    return found


def pulled_by_another(engines: Iterable[Engine]) -> set[uuid.UUID]:
    """Those of them that have been told so, and the image has not come yet. A daemon is asked once for each image."""
    waiting: defaultdict[str, list[Engine]] = defaultdict(list)
    for engine in engines:
        if engine.state == State.PULLING and engine.detail == PULLED_BY_ANOTHER and not engine.cause_code:
            waiting[engine.image].append(engine)
    # The first of them goes on all the same: whoever pulled may have given up.
    many = [alike[1:] for alike in waiting.values() if len(alike) > 1 and _needs_to_pull(alike[0], unknown=True)]
    return {engine.pk for alike in many for engine in alike if not _is_late(engine)}


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
    if engine.state != State.FETCHING and _is_late(engine):
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
    if _needs_to_fetch(engine):
        return _begin_fetching(engine)
    # A daemon that is away is asked again at the place, until a deadline; who waits in line waits on.
    return _begin_pulling(engine) if _needs_to_pull(engine, unknown=False) else placing.place(engine)


def _needs_to_fetch(engine: Engine) -> bool:
    """Once for each generation: what the portal could not fetch then, the engine does."""
    return engine.download is None and fetching.has_some(engine)


def _needs_to_pull(engine: Engine, unknown: bool) -> bool:
    """`unknown`: what counts where the daemon does not tell."""
    try:
        return engine.launcher == "docker" and choice.launcher(engine.launcher).lacks(engine.image)
    except OperatorError as error:
        logger.warning("whether the image of engine %s is there is unknown: %s", engine.name, error)
        return unknown


def _begin_fetching(engine: Engine, **columns: Any) -> bool:
    now = timezone.now()
    columns["deadline_at"] = _in(now, get_config().download_stall_seconds)
    return lifecycle.move(engine, State(engine.state), State.FETCHING, now, **columns)


def _begin_pulling(engine: Engine, **columns: Any) -> bool:
    now = timezone.now()
    columns["deadline_at"] = _in(now, get_config().pull_timeout_seconds)
    return lifecycle.move(engine, State(engine.state), State.PULLING, now, **columns)


def _begin_starting(engine: Engine, **columns: Any) -> bool:
    now = timezone.now()
    columns["deadline_at"] = _in(now, get_config().start_timeout_seconds)
    return lifecycle.move(engine, State(engine.state), State.STARTING, now, **columns)


def _leave_placed(engine: Engine) -> bool:
    """What it needs was there a moment ago, or in the generation before."""
    # From here on what is started does not depend on settings that may change before it runs.
    columns = {"sleep_level": sleeping.level_for(engine), "slept_at": None}
    if _needs_to_pull(engine, unknown=True):
        return _begin_pulling(engine, **columns)
    return _begin_fetching(engine, **columns) if _needs_to_fetch(engine) else _begin_starting(engine, **columns)


def _pull(engine: Engine) -> bool:
    """An image once at a time: who else needs it has it then."""
    with turn(f"pull:{engine.image}") as mine:
        if mine:
            return _pull_alone(engine)
    lifecycle.progress(engine, timezone.now(), PULLED_BY_ANOTHER)
    return False


def _pull_alone(engine: Engine) -> bool:
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
    if not lifecycle.holds_a_place(engine):
        return lifecycle.get_in_line(engine, timezone.now())
    return _begin_fetching(engine) if _needs_to_fetch(engine) else _begin_starting(engine)


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
    return _begin_starting(engine, download=download)


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


def _is_late(engine: Engine) -> bool:
    return engine.deadline_at is not None and timezone.now() > engine.deadline_at


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
