"""Tells other processes that rows changed, so that they need not wait for their next look. A hint: it may get lost."""

import logging

import redis

from vllm_portal.redis_client import client

logger = logging.getLogger(__name__)

CHANNEL = "portal:changes"


def announce(what: str) -> None:
    """`what` names the table: "engines" or "users". Never raises: whoever misses it looks again in a second or two."""
    try:
        client().publish(CHANNEL, what)
    except redis.RedisError as error:
        logger.warning("could not announce a change of %s: %s", what, error)
