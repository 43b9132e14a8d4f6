"""Who waits in line gets a place when it is its turn: GPUs, or slots of the CPU."""

import uuid
from collections.abc import Iterable
from datetime import datetime

from django.utils import timezone

from engines import lifecycle, queueing, room
from engines.models import Engine, Gpu
from engines.placement import SLICES, choose
from engines.states import State
from vllm_portal.config import get_config

BEHIND = {
    True: "waiting for slots, behind engines that come first",
    False: "waiting for GPUs, behind engines that come first",
}
"""`detail` by whether it waits for the CPU: it has what it needs, and others come before it."""


def waits_its_turn(engine: Engine) -> bool:
    """It has been told so, and there is nothing else to do for it before `next_in_line` names it."""
    return engine.state == State.QUEUED and engine.detail == BEHIND[engine.on_cpu] and not engine.cause_code


def tell(engines: Iterable[Engine]) -> list[Engine]:
    """Those of them that others come before; they are QUEUED, need nothing but a place, and are told so in one write.
    Two queries and one, for the CPU and for GPUs."""
    found = []
    for on_cpu in (False, True):
        alike = [engine for engine in engines if engine.on_cpu is on_cpu]
        turn = set(next_in_line(on_cpu)) if alike else set()
        behind = [engine for engine in alike if engine.pk not in turn]
        if behind:
            rows = Engine.objects.filter(pk__in=[engine.pk for engine in behind], state=State.QUEUED)
            rows.update(detail=BEHIND[on_cpu])
        found += behind
    return found


def next_in_line(on_cpu: bool) -> list[uuid.UUID]:
    """Whose turn it is; where nothing is known that they could wait for, all. Two queries."""
    if on_cpu:
        usable = get_config().cpu_slots or 0
    else:
        usable = sum(not gpu.is_taken for gpu in Gpu.objects.filter(present=True))
    return queueing.turn(on_cpu, timezone.now(), usable)


def place(engine: Engine) -> bool:
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
    return engine.pk not in queueing.turn(engine.on_cpu, timezone.now(), usable)
