"""`manage.py run`: checks the machine, starts the portal's processes, keeps them alive, stops them.

checks (exit 2 with one line) -> database, admin -> Redis -> pages, web, worker, beat -> five lines
Ctrl-C: who waits for an engine is let go; web -> pages -> beat -> worker -> (engines) -> Redis, each with a deadline; a
second Ctrl-C kills what is left
"""

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from types import FrameType

from django.db import DatabaseError

from engines.launchers.choice import chosen_name
from vllm_portal import banner, embedded_redis, pages, preconditions, web
from vllm_portal.children import Child, cap, python
from vllm_portal.config import PROJECT_ROOT, Config, environment, get_config, ineffective
from vllm_portal.errors import OperatorError
from vllm_portal.preparation import prepare
from vllm_portal.watchdog import Watchdog

logger = logging.getLogger(__name__)

_CELERY = ("-m", "celery", "-A", "vllm_portal")
_WORKER = ("worker", "--pool", "threads", "--concurrency", "8", "--without-gossip", "--without-mingle",
           "--without-heartbeat", "--loglevel", "INFO")  # fmt: skip
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_AT_LOGS_S = 60


def run() -> int:
    """Returns the exit code once it has been asked to stop. Raises OperatorError where it cannot start."""
    logging.getLogger().setLevel(logging.WARNING)  # the console is for people; the processes have their logs
    config = get_config()
    for doubt in ineffective():
        logger.warning("%s", doubt)
    preconditions.make_writable(config.data_dir)
    with (
        contextlib.closing(preconditions.claim(config.data_dir)),
        contextlib.closing(preconditions.listen(config.host, config.port)) as listener,
    ):
        if config.redis_url:
            preconditions.reach_redis(config.redis)
        admin = prepare()
        launcher = chosen_name()
        children = _children(config, listener, launcher)
        return Supervisor(config, listener, children).run(banner.lines(config, admin, launcher))


class Supervisor:
    """Owns the children. Everything happens in the main thread."""

    def __init__(self, config: Config, listener: socket.socket, children: dict[str, Child]) -> None:
        self._config, self._listener, self._children = config, listener, children
        self._watchdog = None if sys.platform == "linux" else Watchdog()
        self._stopping = False

    def run(self, announcement: list[str]) -> int:
        """Prints the announcement once the web server answers; returns when it has stopped everything."""
        with self._signals() as wake:
            try:
                for child in self._children.values():
                    if not self._stopping:
                        child.start(self._watchdog)
                self._announce(announcement, wake)
                self._keep_alive(wake)
            finally:
                self._stop()
        return 0

    def _announce(self, announcement: list[str], wake: socket.socket) -> None:
        while not self._stopping:
            if web.answers(self._config, timeout_s=0.3):
                print(*announcement, sep="\n", flush=True)
                return
            self._look(wake, pause_s=0.05)

    def _keep_alive(self, wake: socket.socket) -> None:
        logs_due = time.monotonic() + _LOOK_AT_LOGS_S
        while not self._stopping:
            waiting = [due for child in self._children.values() if (due := child.due_in_s) is not None]
            self._look(wake, pause_s=min([*waiting, _LOOK_AT_LOGS_S]))
            if time.monotonic() > logs_due:
                logs_due += _LOOK_AT_LOGS_S
                for child in self._children.values():
                    cap(child.log)

    def _look(self, wake: socket.socket, pause_s: float) -> None:
        """Waits for the pause, a signal or the end of a child; then brings back what ended."""
        select.select([wake], [], [], pause_s)
        with contextlib.suppress(BlockingIOError):
            wake.recv(4096)
        if not self._stopping:
            for child in self._children.values():
                child.keep_alive(self._watchdog)

    def _stop(self) -> None:
        self._stopping = True
        self._listener.close()  # else new connections would wait for an answer that never comes
        self._children["pages"].tell(pages.LET_GO)
        for name in [*filter(_is_web, self._children), "pages", "beat", "worker"]:
            self._children[name].stop()
        try:
            if self._config.stop_engines_on_exit:
                _stop_engines(self._config.stop_wait_seconds)
        except (DatabaseError, OperatorError) as error:
            logger.warning("engines may still run: %s", error)
        finally:
            if "redis" in self._children:
                self._children["redis"].stop()
            if self._watchdog:
                self._watchdog.dismiss()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Signals wake the loop through the socket; the handlers are put back at the end."""
        wake, writer = socket.socketpair()
        wake.setblocking(False)
        writer.setblocking(False)
        before = {number: signal.signal(number, self._asked_to_stop) for number in _SIGNALS}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            wake.close()
            writer.close()

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            for child in self._children.values():
                child.kill()
            os._exit(128 + number)
        self._stopping = True
        print("\nstopping; Ctrl-C again to stop at once", file=sys.stderr, flush=True)


def _is_web(name: str) -> bool:
    return name.partition("-")[0] == "web"


def _stop_engines(timeout_s: float) -> None:
    from engines import reconcile  # with all launchers: not needed for a start

    reconcile.stop_all(timeout_s)


def _children(config: Config, listener: socket.socket, launcher: str) -> dict[str, Child]:
    """In the order in which they are started. Each gets the launcher by name: `auto` might mean another one to each."""
    logs, children = config.data_dir / "logs", {}
    variables = environment(PORTAL_DATA_DIR=str(config.data_dir), PORTAL_LAUNCHER=launcher, PYTHONUNBUFFERED="1")
    variables["CELERY_SKIP_CHECKS"] = "1"  # they import all pages, and say nothing about this machine
    variables.pop("PORTAL_ADMIN_PASSWORD", None)  # used up: what does not know it cannot lose it
    start = partial(python, cwd=PROJECT_ROOT, environment=variables)
    if not config.redis_url:
        log, directory = logs / "redis.log", config.redis_socket.parent
        spawn = partial(embedded_redis.start, directory, config.redis_socket, log=log, env=variables)
        children["redis"] = Child("redis", spawn, log, grace_s=5)
    beat = ("beat", "--schedule", str(config.data_dir / "beat-schedule"), "--pidfile=", "--loglevel", "INFO")
    children["pages"] = Child("pages", start("-m", "vllm_portal.pages"), logs / "pages.log", pages.GRACEFUL_SECONDS + 3)
    spawn_web = partial(start("-m", "vllm_portal.web", "--fd", str(listener.fileno())), pass_fds=[listener.fileno()])
    for number in range(1, config.web_processes + 1):
        name = "web" if number == 1 else f"web-{number}"
        children[name] = Child(name, spawn_web, logs / f"{name}.log", grace_s=web.GRACEFUL_SECONDS + 3)
    children["worker"] = Child("worker", start(*_CELERY, *_WORKER), logs / "worker.log", grace_s=15)
    children["beat"] = Child("beat", start(*_CELERY, *beat), logs / "beat.log", grace_s=5)
    return children
