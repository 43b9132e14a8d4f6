"""Logging: one set-up for every process; each line carries the request id, no line carries a secret.

The request id travels in a context variable, so that code deep below a view logs it without knowing of it.
"""

import logging
import re
from contextvars import ContextVar
from typing import Any

request_id: ContextVar[str] = ContextVar("request_id", default="-")

# Shapes of secrets: API keys, Hugging Face tokens, JWTs, bearer headers, passwords in URLs.
_SECRETS = re.compile(
    r"\b(sk-|hf_)[A-Za-z0-9_-]{8,}|\beyJ[\w-]+\.[\w-]+\.[\w-]+|(?i:(?<=bearer )\S+)|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def redact(text: str) -> str:
    """The text with everything that looks like a secret replaced by `***`."""
    return _SECRETS.sub("***", text)


class SafeFormatter(logging.Formatter):
    """One line is one event where the message came from outside: control characters escaped, secrets gone."""

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        return _CONTROL.sub(lambda match: repr(match.group())[1:-1], redact(super().format(record)))


def logging_config(level: str) -> dict[str, Any]:
    """A dictConfig: everything to stderr, where the process's owner (the `run` command, Docker) keeps it."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": "vllm_portal.log.SafeFormatter",
                "format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s",
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "celery.app.trace": {"level": "WARNING"},  # a line per reconcile says nothing
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.beat": {"level": "WARNING"},
            "httpx": {"level": "WARNING"},
            "uvicorn.access": {"level": "WARNING"},
            "django.request": {"level": "ERROR"},
        },
    }
