"""Whether an engine answers, asked over HTTP. No database here.

`/health` can say 200 while the engine hangs; only a real answer of one token proves that it serves. An engine is not
trusted: each call is bounded in time and size as a whole, whatever it sends, and redirects are not followed.
"""

import contextlib
import http.client
import json
import re
import socket
import threading
from dataclasses import dataclass
from typing import Any

from engines import metrics

HEALTH_SECONDS = 5.0
MISSES = 3
"""Looks in a row without an answer, before an engine counts as one that does not answer: a busy one is late."""
PROBE_SECONDS = 30.0
"""The first answer of a fresh engine may have to compile something."""
LARGEST_ANSWER = 1 << 20
PROMPT = "Hi"
_VERSION = re.compile(r"[\w.+-]{1,40}", re.ASCII)


@dataclass(frozen=True)
class Address:
    """Where an engine listens, the key it wants, and a name that it serves its model under."""

    host: str
    port: int
    key: str
    model: str


@dataclass(frozen=True)
class Proof:
    """A real answer. `task` is `generate` or `embed`; the tokens are what the engine counted for the question."""

    task: str
    prompt_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True)
class Answer:
    """`body` is None where it was no JSON object."""

    status: int
    body: dict[str, Any] | None


def call(
    method: str, address: Address, path: str, body: dict[str, Any] | None = None, timeout_s: float = HEALTH_SECONDS
) -> Answer | None:
    """Any question. None: no whole answer in time."""
    fetched = _fetch(method, address, path, body, timeout_s)
    return None if fetched is None else Answer(fetched[0], _json_object(fetched[1]))


def is_healthy(host: str, port: int, timeout_s: float = HEALTH_SECONDS) -> bool:
    """Whether /health says 200 in time."""
    answer = call("GET", Address(host, port, "", ""), "/health", timeout_s=timeout_s)
    return answer is not None and answer.status == 200


def told(host: str, port: int, timeout_s: float = HEALTH_SECONDS) -> metrics.Metrics | None:
    """What the engine counts of itself; None where it does not tell."""
    status, content = _fetch("GET", Address(host, port, "", ""), "/metrics", timeout_s=timeout_s) or (0, b"")
    return metrics.parse(content) if status == 200 else None


def prove(address: Address, timeout_s: float = PROBE_SECONDS) -> Proof | str:
    """Asks for one token, or where the engine does not generate, for a vector. A string says why that is no proof."""
    body = {"model": address.model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
    answer = call("POST", address, "/v1/completions", body, timeout_s)
    if not _is_missing(answer):
        return _proof("generate", answer)
    for path in ("/v1/embeddings", "/pooling"):
        answer = call("POST", address, path, {"model": address.model, "input": PROMPT}, timeout_s)
        if not _is_missing(answer):
            return _proof("embed", answer)
    return "it offers neither completions nor embeddings"


def served_max_model_len(address: Address) -> int | None:
    """The longest request that the engine takes, in tokens; None where it does not tell."""
    answer = call("GET", address, "/v1/models")
    models = (answer.body or {}).get("data") if answer and answer.status == 200 else None
    first = models[0] if isinstance(models, list) and models else None
    length = first.get("max_model_len") if isinstance(first, dict) else None
    return length if isinstance(length, int) and 0 < length < 2**31 else None


def vllm_version(address: Address) -> str:
    """As the engine says; "": it does not."""
    answer = call("GET", address, "/version")
    told = (answer.body or {}).get("version") if answer and answer.status == 200 else None
    return told if isinstance(told, str) and _VERSION.fullmatch(told) else ""


def has_chat_template(address: Address) -> bool:
    """Whether the engine can turn chat messages into a prompt. True where it does not tell."""
    messages = [{"role": "user", "content": PROMPT}]
    answer = call("POST", address, "/tokenize", {"model": address.model, "messages": messages})
    return not (answer and answer.status == 400)


def _is_missing(answer: Answer | None) -> bool:
    """vLLM's 404 for a path that it does not have; one for a model looks different."""
    return answer is not None and answer.status == 404 and (answer.body or {}).get("detail") == "Not Found"


def _proof(task: str, answer: Answer | None) -> Proof | str:
    if answer is None:
        return "a test request got no answer"
    if answer.status != 200:
        return f"a test request was answered with {answer.status}{_reason(answer)}"
    if answer.body is None or not (answer.body.get("choices") or answer.body.get("data")):
        return "a test request got an answer that is none"
    usage = answer.body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Proof(task, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))


def _reason(answer: Answer) -> str:
    error = (answer.body or {}).get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return f": {message[:200]}" if isinstance(message, str) else ""


def _count(value: Any) -> int:
    """What an engine claims to have counted for one short question."""
    return value if type(value) is int and 0 <= value < 10_000 else 0


def _fetch(
    method: str, address: Address, path: str, body: dict[str, Any] | None = None, timeout_s: float = HEALTH_SECONDS
) -> tuple[int, bytes] | None:
    """Status and content. None: no whole answer in time."""
    headers = {"authorization": f"Bearer {address.key}"} if address.key else {}
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["content-type"] = "application/json"
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    with contextlib.closing(connection):
        try:
            connection.connect()
            with _cut_off_after(connection.sock, timeout_s):
                connection.request(method, path, data, headers)
                response = connection.getresponse()
                content = response.read(LARGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException, ValueError):
            return None
    return None if len(content) > LARGEST_ANSWER else (response.status, content)


@contextlib.contextmanager
def _cut_off_after(connection: socket.socket, seconds: float) -> Any:
    """The socket's own time-out is for each packet; this one is for all of them together."""

    def cut_off() -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut_off)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
