"""Whose turn it is to do something that takes long to one engine: pull, start, stop, look.

A turn keeps the reconciler, which comes every few seconds, from doing again what is still being done. It is a
convenience, not what correctness rests on: each launcher call is safe to make twice at once, and each change of a
state is a compare-and-swap. So with Redis away turns count within this process alone, and nothing else changes.

A turn is a key in Redis that lives TTL_MS and is renewed as long as its holder lives; after a `kill -9` somebody else
gets it TTL_MS later.
"""

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Iterator

import redis

from vllm_portal.redis_client import client

logger = logging.getLogger(__name__)

TTL_MS = 3000
RENEW_SECONDS = 1.0
LOOK_SECONDS = 0.05

_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

_held: dict[str, str] = {}
_lock = threading.Lock()
_renewer: threading.Thread | None = None


@contextlib.contextmanager
def turn(what: str, wait_s: float = 0.0) -> Iterator[bool]:
    """Yields True to the one who may do `what` now, False when somebody else is still at it after `wait_s` seconds.
    Not reentrant: who has the turn and asks for it again is refused."""
    key, token = f"engines:turn:{what}", secrets.token_hex(8)
    deadline = time.monotonic() + wait_s
    mine = _take(key, token)
    while not mine and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        mine = _take(key, token)
    try:
        yield mine
    finally:
        if mine:
            _give_back(key, token)


def _take(key: str, token: str) -> bool:
    with _lock:
        if key in _held:
            return False
        _held[key] = token
        _start_renewing()
    try:
        if client().set(key, token, nx=True, px=TTL_MS):
            return True
    except redis.RedisError as error:
        logger.warning("turns count within this process alone: %s", error)
        return True
    with _lock:
        del _held[key]
    return False


def _give_back(key: str, token: str) -> None:
    with _lock:
        _held.pop(key, None)
    with contextlib.suppress(redis.RedisError):
        client().eval(_GIVE_BACK, 1, key, token)


def _start_renewing() -> None:
    global _renewer
    if _renewer is None or not _renewer.is_alive():
        _renewer = threading.Thread(target=_renew_for_ever, name="turns", daemon=True)
        _renewer.start()


def _renew_for_ever() -> None:
    while True:
        time.sleep(RENEW_SECONDS)
        with _lock:
            held = list(_held.items())
        for key, token in held:
            with contextlib.suppress(redis.RedisError):
                client().eval(_RENEW, 1, key, token, TTL_MS)
