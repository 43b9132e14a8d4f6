"""The two C programs of the benchmark: compiled when their source is newer, started, asked."""

import json
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
BUILD_DIR = HERE / ".build"
PROMPT_TOKENS = 10  # what upstream.c counts for any prompt
PATH = "/v1/chat/completions"


class Usage(NamedTuple):
    """Totals since some start; three parties count them: load generator, portal and upstream."""

    requests: int
    prompt_tokens: int
    generated_tokens: int

    def since(self, earlier: "Usage") -> "Usage":
        return Usage(*(now - before for now, before in zip(self, earlier, strict=True)))


class Mode(NamedTuple):
    """One kind of request. `delay_ms` is the upstream's pause between two chunks; 0 is as fast as it is read."""

    name: str
    stream: bool
    max_tokens: int
    delay_ms: int

    @property
    def duration(self) -> float:
        """Seconds that the pauses of one request take."""
        return self.max_tokens * self.delay_ms / 1000 if self.stream else 0


def compiled(name: str) -> Path:
    """Path of the program. Raises CalledProcessError (gcc has written why) or FileNotFoundError (no gcc)."""
    source, program = HERE / f"{name}.c", BUILD_DIR / name
    BUILD_DIR.mkdir(exist_ok=True)
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", program, source], check=True, timeout=120)
    return program


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Upstream:
    """The stand-in engine. Counts from its own start on."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [compiled("upstream"), "--port", str(self.port), "--model", self.model]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + 5
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"the upstream does not answer on port {self.port}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            self._get("/health")
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(5)

    def usage_totals(self) -> Usage:
        metrics = self._get("/metrics")
        return Usage(
            _metric(metrics, "vllm:request_success_total"),
            _metric(metrics, "vllm:prompt_tokens_total"),
            _metric(metrics, "vllm:generation_tokens_total"),
        )

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return answer.read().decode()


def _metric(metrics: str, name: str) -> int:
    """Sum over the metric's label sets."""
    return sum(int(float(value)) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", metrics, re.MULTILINE))


def run_load(
    port: int, key: str, model: str, mode: Mode, connections: int, seconds: float, warmup: float
) -> dict[str, Any]:
    """What load.c printed: see there. Returns when every request has been answered, or given up, by `load`."""
    warmup = max(warmup, mode.duration)  # so that the streams are spread over their whole length
    command = [compiled("load"), "--port", str(port), "--path", PATH, "--key", key, "--model", model]
    command += ["--connections", str(connections), "--seconds", str(seconds), "--warmup", str(warmup)]
    command += ["--max-tokens", str(mode.max_tokens), "--delay-ms", str(mode.delay_ms)]
    command += ["--stream"] if mode.stream else []
    limit = warmup + seconds + 2 * mode.duration + 30
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=limit).stdout)
