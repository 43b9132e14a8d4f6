"""vLLM's own sleep, over HTTP. No database here.

Level 1 keeps the weights in the host's memory; level 2 keeps nothing, and on its way back

    /wake_up?tags=weights ── /collective_rpc reload_weights ── /reset_prefix_cache ── /wake_up?tags=kv_cache

in this order: an engine that was left in between still says that it sleeps, and all of it may be done again.
"""

from typing import Any

from engines.health import Address, call

SLEEP_SECONDS = 120.0
"""Weights go over PCIe into the host's memory, and come back."""
RELOAD_SECONDS = 900.0
OF_LEVELS = (1, 2)

_WAKE: dict[int, list[tuple[str, dict[str, Any] | None, float]]] = {
    1: [("/wake_up", None, SLEEP_SECONDS)],
    2: [
        ("/wake_up?tags=weights", None, SLEEP_SECONDS),
        ("/collective_rpc", {"method": "reload_weights"}, RELOAD_SECONDS),
        ("/reset_prefix_cache", None, SLEEP_SECONDS),
        ("/wake_up?tags=kv_cache", None, SLEEP_SECONDS),
    ],
}


def is_asleep(address: Address) -> bool | None:
    """What it says. None: it does not. One that has no such route cannot sleep."""
    answer = call("GET", address, "/is_sleeping")
    if answer is not None and answer.status == 404:
        return False
    said = (answer.body or {}).get("is_sleeping") if answer and answer.status == 200 else None
    return said if isinstance(said, bool) else None


def fall_asleep(address: Address, level: int) -> int | None:
    """Only for one that works on nothing: what it works on is aborted, and what comes later waits until it wakes. The
    status of its answer; None: there was none in time, and it may fall asleep yet."""
    answer = call("POST", address, f"/sleep?level={level:d}", timeout_s=SLEEP_SECONDS)
    return None if answer is None else answer.status


def wake_up(address: Address, level: int) -> str:
    """For one that sleeps at this level. "": it did all that it was asked; else what it did not do."""
    for path, body, timeout_s in _WAKE[level]:
        answer = call("POST", address, path, body, timeout_s)
        if answer is None or answer.status != 200:
            return f"{path} was answered with {answer.status}" if answer else f"{path} was not answered in time"
    return ""
