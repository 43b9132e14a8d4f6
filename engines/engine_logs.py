"""The logs of engines, for people.

The worker sees what engines write; the web process does not hold the Docker socket. So the worker keeps a copy in
Redis: while an engine comes up, when it ends, and while somebody is reading it. What processes of this machine write,
the web process reads itself.
"""

import logging

import redis

from engines.launchers import choice
from engines.models import Engine
from vllm_portal.encryption import decrypt
from vllm_portal.errors import OperatorError
from vllm_portal.log import redact
from vllm_portal.redis_client import client

logger = logging.getLogger(__name__)

COPY_BYTES = 64_000
COPY_SECONDS = 7 * 86_400
READER_SECONDS = 60
_FILES = frozenset({"process", "simulator"})
"""Launchers whose logs are files that the web process can read."""


def read(engine: Engine) -> str:
    """The log's first and last parts without secrets; "" where there is none (yet). Never raises."""
    if engine.launcher in _FILES:
        return _without_secrets(engine, _from_launcher(engine, COPY_BYTES))
    try:
        client().set(_reader_key(engine), "1", ex=READER_SECONDS)
        return client().get(_copy_key(engine)) or ""
    except redis.RedisError as error:
        logger.warning("the log of %s cannot be read now: %s", engine, error)
        return ""


def copy(engine: Engine, log: str) -> None:
    """Keeps what the worker has read. Never raises."""
    if engine.launcher in _FILES or not log:
        return
    half = COPY_BYTES // 2
    text = log if len(log) <= COPY_BYTES else f"{log[:half]}\n[…]\n{log[-half:]}"
    try:
        client().set(_copy_key(engine), _without_secrets(engine, text), ex=COPY_SECONDS)
    except redis.RedisError as error:
        logger.warning("the log of %s is not copied: %s", engine, error)


def copy_for_readers(engine: Engine) -> None:
    """Copies the log anew if somebody asked for it in the last minute. Never raises."""
    if engine.launcher in _FILES:
        return
    try:
        wanted = client().exists(_reader_key(engine))
    except redis.RedisError:
        return
    if wanted:
        copy(engine, _from_launcher(engine, COPY_BYTES))


def _from_launcher(engine: Engine, max_bytes: int) -> str:
    try:
        return choice.launcher(engine.launcher).logs(engine.container_name, max_bytes)
    except OperatorError as error:
        logger.warning("the log of %s cannot be read: %s", engine, error)
        return ""


def _without_secrets(engine: Engine, text: str) -> str:
    for encrypted in (engine.engine_key_encrypted, engine.hf_token_encrypted):
        try:
            secret = decrypt(encrypted)
        except OperatorError:
            continue
        if secret:
            text = text.replace(secret, "***")
    return redact(text)


def _copy_key(engine: Engine) -> str:
    return f"engines:log:{engine.pk}"


def _reader_key(engine: Engine) -> str:
    return f"engines:log-reader:{engine.pk}"
