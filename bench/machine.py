"""What the benchmark asks of Linux: cores, files, CPU time and memory of processes, and what machine this is."""

import os
import platform
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_portal import compiled


def two_cores() -> tuple[int, int]:
    """The portal's core and the load's. Equal on a machine that gives us one: the latencies are worth little then."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[min(1, len(cores) - 1)]


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """What this thread starts inside inherits the core; afterwards this thread is back where it was."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def allow_files(wanted: int) -> None:
    """For this process and those that it starts from now on. Raises OSError where the machine allows fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise OSError(f"needs {wanted} open files, and this machine allows {hard}: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def process_tree(pid: int, without: int | None = None) -> list[int]:
    """The process and its living descendants; `without` is left out, with its own descendants."""
    if pid == without:
        return []
    pids = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            pids += process_tree(int(child), without)
    return pids


def cpu_ns(pids: list[int]) -> int:
    """User and system time of all threads of these processes, in ns; /proc/PID/stat counts in ticks of 10 ms.

    Raises OSError when one of them is gone.
    """
    per_process_clock = 2  # CPUCLOCK_SCHED of <linux/posix-timers.h>: a clock id is ~pid << 3 | kind
    return sum(time.clock_gettime_ns(~pid << 3 | per_process_clock) for pid in pids)


def rss_mb(pids: list[int]) -> float:
    """Resident memory in MB (10^6); pages that the processes share count in each of them."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Watch:
    """Looks at processes ten times a second while a `with` block lasts, from a thread of its own."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._ended = threading.Event()
        self._seen: list[tuple[float, int]] = []  # time.monotonic(), CPU ns
        self._thread = threading.Thread(target=self._look)
        self.peak_rss_mb = 0.0

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            try:
                self._seen.append((time.monotonic(), cpu_ns(self._pids)))
                self.peak_rss_mb = max(self.peak_rss_mb, rss_mb(self._pids))
            except OSError:
                return  # one of them is gone; whoever measures it notices

    def cpu_share(self, start: float, end: float) -> float | None:
        """Cores in use between two times of time.monotonic(); None where it looked less than twice."""
        inside = [seen for seen in self._seen if start <= seen[0] <= end]
        if len(inside) < 2:
            return None
        (first, before), (last, after) = inside[0], inside[-1]
        return (after - before) / 1e9 / (last - first)


def describe(project: Path) -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "the portal's hot path": "compiled" if compiled.wanted() else "not compiled",
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
        "commit": _commit(project),
    }


def _commit(project: Path) -> str:
    """Short hash, with `-dirty` when the tree differs from it."""
    command = ["git", "-C", str(project), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()
