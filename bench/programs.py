"""The two C programs of the benchmark: compiled when their source is newer, started, asked."""

import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from engines.launchers.ports import free_port

HERE = Path(__file__).resolve().parent
BUILD_DIR = HERE / ".build"
PROMPT_TOKENS = 10  # what upstream.c counts for any prompt
WARMUP_SECONDS = 0.3
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


class Upstream:
    """The stand-in engine. Counts from its own start on."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.port = free_port(taken=())
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
    port: int,
    keys: Path,
    model: str,
    mode: Mode,
    connections: int,
    seconds: float,
    requests: int | None = None,
    compare: bool = False,
) -> dict[str, Any]:
    """What load.c printed: see there. Returns when every request has been answered, or given up, by `load`.

    With `requests` there is neither a warm-up nor a sample: that many are asked, and that is all.
    """
    warmup = 0 if requests else warmup_of(mode)
    command = [compiled("load"), "--port", str(port), "--path", PATH, "--keys", keys]
    command += ["--model", model, "--connections", str(connections), "--seconds", str(seconds)]
    command += ["--warmup", str(warmup), "--max-tokens", str(mode.max_tokens), "--delay-ms", str(mode.delay_ms)]
    command += ["--requests", str(requests)] if requests else []
    command += ["--stream"] if mode.stream else []
    command += ["--compare"] if compare else []
    limit = warmup + seconds + 2 * mode.duration + 60
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=limit).stdout)


def warmup_of(mode: Mode) -> float:
    """Seconds; long enough that the streams are spread over their whole length."""
    return max(WARMUP_SECONDS, mode.duration)
