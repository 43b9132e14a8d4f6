"""What else people put in front of vLLM: installed by install.sh, started with settings of our own, stopped."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bench import machine
from bench.gateway import Gateway, Keys
from engines.launchers.ports import free_port

HERE = Path(__file__).resolve().parent
INSTALLED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-portal-bench"
INSTALL_S, START_S, STOP_S = 900, 90, 10


class Missing(OSError):
    """The peer cannot be had on this machine, or does not start; the text says why."""


class Place(NamedTuple):
    """Where a peer is started and what it finds there."""

    directory: Path
    port: int
    upstream_port: int
    model: str
    keys: Keys

    def settings(self, template: str, **more: object) -> Path:
        """A copy of the template with its @NAMES@ filled in."""
        known = {"PORT": self.port, "UPSTREAM": self.upstream_port, "MODEL": self.model, **more}
        text = re.sub("@([A-Z]+)@", lambda match: str(known[match[1]]), (HERE / template).read_text())
        (self.directory / template).write_text(text)
        return self.directory / template


def nginx(place: Place) -> list[str]:
    lines = [f'"Bearer {key}" 1;\n' for key in place.keys.known.read_text().split()]
    (place.directory / "keys.map").write_text("".join(lines))
    settings = place.settings("nginx.conf")
    return [f"{INSTALLED}/nginx/usr/sbin/nginx", "-p", str(place.directory), "-c", str(settings), "-e", "stderr"]


def vllm_router(place: Place) -> list[str]:
    """It asks no key and counts nothing."""
    command = [f"{INSTALLED}/vllm-router/bin/vllm-router", "--host", "127.0.0.1", "--port", str(place.port)]
    command += ["--worker-urls", f"http://127.0.0.1:{place.upstream_port}", "--policy", "round_robin"]
    command += ["--max-concurrent-requests", "8192", "--log-level", "error"]
    command += ["--prometheus-port", str(free_port(taken=()))]
    return command


def litellm(place: Place) -> list[str]:
    settings = place.settings("litellm.yaml", KEY=place.keys.used.read_text().split()[0])
    command = [f"{INSTALLED}/litellm/bin/litellm", "--config", str(settings), "--host", "127.0.0.1"]
    return [*command, "--port", str(place.port), "--log_config", str(HERE / "litellm-log.json")]


class Kind(NamedTuple):
    """`one_key`: it knows no others without a database."""

    command: Callable[[Place], list[str]]
    health: str
    one_key: bool = False


KINDS = {
    "nginx": Kind(nginx, "/health"),
    "vllm-router": Kind(vllm_router, "/health"),
    "LiteLLM": Kind(litellm, "/health/liveliness", one_key=True),
}
_ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # its start waits for no download


class Peer:
    def __init__(self, name: str) -> None:
        self.name = name
        self._kind = KINDS[name]
        self._process: subprocess.Popen[bytes] | None = None

    def install(self) -> str:
        """The version that is installed now. Takes minutes where it was not before. Raises Missing."""
        command = [HERE / "install.sh", self.name.lower(), INSTALLED, sys.executable]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_S)
            return self._version()
        except subprocess.CalledProcessError as error:
            raise Missing(f"{self.name} cannot be installed: {(error.stderr or '').strip()[-1000:]}") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Missing(f"{self.name} cannot be installed: {error}") from None

    def _version(self) -> str:
        if self.name == "nginx":
            command = [INSTALLED / "nginx/usr/sbin/nginx", "-v"]
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stderr
            return said.rpartition("/")[2].strip()
        pins = (HERE / f"{self.name.lower()}.txt").read_text()
        return re.search(rf"^{self.name.lower()}==(\S+)", pins, re.MULTILINE)[1]  # type: ignore[index]

    def start(self, directory: Path, upstream_port: int, model: str, keys: Keys) -> Gateway:
        """Returns when it answers. It inherits the core that the caller is pinned to. Raises Missing."""
        directory.mkdir()
        place = Place(directory, free_port(taken=()), upstream_port, model, keys)
        log = directory / "console.log"
        with log.open("wb") as console:
            self._process = process = subprocess.Popen(
                self._kind.command(place),
                cwd=directory,
                env=os.environ | _ENVIRONMENT,
                stdout=console,
                stderr=console,
                start_new_session=True,  # so that `stop` reaches all of it
            )
        deadline = time.monotonic() + START_S
        while not _answers(f"http://127.0.0.1:{place.port}{self._kind.health}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Missing(f"{self.name} does not start; it said:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        used = keys.used
        if self._kind.one_key:
            used = directory / "key"
            used.write_text(keys.used.read_text().split()[0] + "\n")
        return Gateway(self.name, place.port, used, {"all": lambda: machine.process_tree(process.pid)})

    def stop(self) -> None:
        """Leaves no process behind. Legal in every state."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False
