"""Which of several engines of one name a request goes to. Pure: the same for the same arguments, in each process.

    nothing to be affine to ── the engine with the least outstanding tokens
    a key ── the engines in the key's own order: the first whose load is below CAPACITY times the mean

The order is rendezvous hashing (Thaler and Ravishankar, 1998): each engine gets a number from a hash of key and engine,
and the largest is first. When an engine goes only its own keys move, each to its own next engine; when one comes it
takes keys and moves no others. The bound is that of consistent hashing with bounded loads (Mirrokni, Thorup and
Zadimoghaddam, 2016), in tokens where theirs is in balls.
"""

import hashlib
from collections.abc import Sequence

CAPACITY = 1.25
"""Mirrokni et al.'s c: how much above the mean a load may be. Less moves more requests away from their cached prefix,
more lets one engine's queue grow while another is idle."""


def choose(engines: Sequence[str], loads: Sequence[int], key: bytes, tokens: int) -> int:
    """The index of the engine for a request of so many `tokens` (1 or more). `engines`: the ids, 1 or more; `loads`:
    outstanding tokens of each, in the same order. `key` b"": nothing to be affine to.

    With a key the load of the chosen engine is then below CAPACITY * mean + tokens, where the mean is of all loads and
    includes this request: some engine's load is at most the mean, so there always is one."""
    if not key:
        return min(range(len(engines)), key=loads.__getitem__)
    bound = CAPACITY * (sum(loads) + tokens) / len(engines)
    below = [index for index, load in enumerate(loads) if load < bound]
    return max(below, key=lambda index: rank(engines[index], key))


def rank(engine: str, key: bytes) -> bytes:
    """Where an engine stands in the order of a key: the largest is first. Python's own `hash` differs from process to
    process. `key`: up to 64 bytes (BLAKE2b's longest)."""
    return hashlib.blake2b(engine.encode(), digest_size=8, key=key).digest()
