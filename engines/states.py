"""The states of an engine, as a table. Pure: no database, no clock.

    QUEUED -> FETCHING -> QUEUED -> PULLING -> QUEUED -> PLACED -> STARTING -> LOADING -> READY <-> UNHEALTHY
       ^                                        idle: READY -> SLEEPING -> WAKING -> READY
       |                                        idle: READY, SLEEPING -> STOPPING -> ASLEEP
       +--------------------- a request, or its owner --------------------+
       does not wake, or dies: WAKING, READY, UNHEALTHY -> STOPPING -> PLACED, the next generation in the same place
       any state that is not final --> STOPPING -> STOPPED
       any state that is not final --> FAILED (with a cause)

QUEUED     accepted; waits for a worker, and for free GPUs
FETCHING   the model is being fetched, where the portal does that and it is not there; no GPU is held for it
PULLING    the image is being fetched, for a container, where it is not there; likewise
PLACED     its GPUs are leased
STARTING   the container or process is being made
LOADING    it runs; vLLM loads the model and does not answer yet
READY      it gave a real answer of one token; the only state that gets requests
UNHEALTHY  it was READY and misses its health checks
SLEEPING   out of routing; vLLM's own sleep: weights and KV cache leave the GPU (`slept_at`: have left), its place stays
WAKING     they come back; no request before it gave a real answer again
STOPPING   out of routing; the container or process is being ended
ASLEEP     nothing runs and no GPU is held; a request wakes it, as a new generation
STOPPED    ended because somebody asked for it, or by its terms (`engines.terms`), which `cause` then says
FAILED     ended, or never came up; `cause` says why, `advice` what to change
"""

from django.db import models


class State(models.TextChoices):
    QUEUED = "QUEUED"
    PLACED = "PLACED"
    PULLING = "PULLING"
    FETCHING = "FETCHING"
    STARTING = "STARTING"
    LOADING = "LOADING"
    READY = "READY"
    UNHEALTHY = "UNHEALTHY"
    SLEEPING = "SLEEPING"
    WAKING = "WAKING"
    STOPPING = "STOPPING"
    ASLEEP = "ASLEEP"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


class Desired(models.TextChoices):
    RUN = "run"
    SLEEP = "sleep"
    STOP = "stop"


FINAL = frozenset({State.STOPPED, State.FAILED})
ACTIVE = frozenset(State) - FINAL
AWAKE = ACTIVE - {State.ASLEEP}
RESTING = frozenset({State.SLEEPING, State.WAKING})
# A container or process may exist in these.
TANGIBLE = frozenset({State.STARTING, State.LOADING, State.READY, State.UNHEALTHY, State.STOPPING}) | RESTING
COMING_UP = frozenset({State.QUEUED, State.PLACED, State.PULLING, State.FETCHING, State.STARTING, State.LOADING})
FETCHED = frozenset({State.FETCHING, State.PULLING})
"""What it needs is on its way; it holds no place, unless it had one before."""
GROWING = COMING_UP | {State.WAKING}
"""Takes memory of its GPUs, or measures it: on each GPU one at a time."""
SERVING = frozenset({State.READY})

_FORWARD = {
    State.QUEUED: {State.FETCHING, State.PULLING, State.PLACED},
    # Of one that has its place: its image, or where it is started afresh its files, are gone by now.
    State.PLACED: {State.PULLING, State.FETCHING, State.STARTING},
    State.PULLING: {State.QUEUED, State.FETCHING, State.STARTING},
    State.FETCHING: {State.QUEUED, State.STARTING},
    State.STARTING: {State.LOADING},
    State.LOADING: {State.READY},
    State.READY: {State.UNHEALTHY, State.SLEEPING},
    State.UNHEALTHY: {State.READY},
    State.SLEEPING: {State.WAKING},
    State.WAKING: {State.READY},
    State.STOPPING: {State.ASLEEP, State.PLACED, State.STOPPED},
    State.ASLEEP: {State.QUEUED},
}


def allowed(old: State, new: State) -> bool:
    """Whether an engine may go from `old` to `new`."""
    if old in FINAL:
        return False
    if new is State.FAILED:
        return True
    if new is State.STOPPING:
        return old is not State.STOPPING
    return new in _FORWARD.get(old, set())
