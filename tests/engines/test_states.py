"""The table of states, as a whole."""

from itertools import product

import pytest

from engines.states import ACTIVE, AWAKE, COMING_UP, FINAL, GROWING, RESTING, SERVING, TANGIBLE, State, allowed

FORWARD = {
    ("QUEUED", "PLACED"), ("PLACED", "PULLING"), ("PLACED", "STARTING"), ("PULLING", "STARTING"),
    ("QUEUED", "FETCHING"), ("FETCHING", "QUEUED"), ("QUEUED", "PULLING"), ("PULLING", "QUEUED"),
    ("PLACED", "FETCHING"), ("PULLING", "FETCHING"), ("FETCHING", "STARTING"),
    ("STARTING", "LOADING"), ("LOADING", "READY"), ("READY", "UNHEALTHY"), ("UNHEALTHY", "READY"),
    ("READY", "SLEEPING"), ("SLEEPING", "WAKING"), ("WAKING", "READY"),
    ("STOPPING", "ASLEEP"), ("ASLEEP", "QUEUED"), ("STOPPING", "STOPPED"), ("STOPPING", "PLACED"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), list(product(State, State)))
def test_an_engine_goes_forward_or_to_its_end_and_nowhere_else(old, new):
    to_its_end = old in ACTIVE and (new is State.FAILED or (new is State.STOPPING and old is not State.STOPPING))
    assert allowed(old, new) == ((old, new) in FORWARD or to_its_end)


@pytest.mark.parametrize("new", list(State))
@pytest.mark.parametrize("old", sorted(FINAL))
def test_what_has_ended_stays_so(old, new):
    assert not allowed(old, new)


def test_the_groups_fit_together():
    assert set(State) == ACTIVE | FINAL
    assert not ACTIVE & FINAL
    assert TANGIBLE < AWAKE < ACTIVE
    assert COMING_UP < GROWING < ACTIVE
    assert RESTING < TANGIBLE
    assert frozenset({State.READY}) == SERVING
