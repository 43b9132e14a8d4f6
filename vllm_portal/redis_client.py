"""The synchronous Redis client of the control plane, one per process."""

from functools import lru_cache

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from vllm_portal.config import get_config


@lru_cache(maxsize=1)
def client() -> redis.Redis:
    """Thread-safe and pooled. Each call raises redis.RedisError within about two seconds when Redis is away."""
    return redis.Redis.from_url(
        get_config().redis,
        socket_timeout=2,
        socket_connect_timeout=1,
        decode_responses=True,
        protocol=2,
        retry=Retry(NoBackoff(), 1),  # the library's own would add seconds of waiting
    )
