"""Ends its own process with SIGKILL at a named step. Python imports a module of this name at its start, from whoever
has this folder in PYTHONPATH.

FAIL_POINT is a file. It holds `module function before|after`: who gets there first takes it away and dies. A function
of a class is `Class.function`; `move>state` is a move to that state."""

import functools
import importlib.abc
import importlib.machinery
import os
import pathlib
import signal
import sys

STEPS = {
    "engines.lifecycle": ["place", "move", "stopped", "failed", "start_afresh", "get_in_line"],
    "engines.downloads.process": ["begin"],
    "engines.launchers.process": [
        "ProcessLauncher.start", "ProcessLauncher._launch", "ProcessLauncher.stop", "ProcessLauncher._put_away",
        "ProcessLauncher._ask_to_end", "ProcessLauncher.poll",
    ],
    "engines.launchers.docker": [
        "DockerLauncher.lacks", "DockerLauncher._create", "DockerLauncher._start", "DockerLauncher.start",
        "DockerLauncher.stop", "DockerLauncher._keep_log", "DockerLauncher._remove",
    ],
    "engines.launchers.engine_directory": ["EngineDirectory.write_meta", "EngineDirectory.remove"],
    "engines.draining": ["again_in_s"],
    "engines.ending": ["finish_failing", "_end"],
    "engines.checking": ["_became_ready"],
    "engines.sleeping": ["_fall_asleep", "_wake_up"],
    "engines.vllm_sleep": ["fall_asleep", "wake_up"],
    "vllm_portal.children": [],
}  # fmt: skip


def _die_here(step: str) -> None:
    point = pathlib.Path(os.environ["FAIL_POINT"])
    try:
        if point.read_text() != step:
            return
        point.unlink()  # of two who get here one dies
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _wrapped(function, name: str):
    @functools.wraps(function)
    def step(*arguments, **named):
        to = f">{arguments[2].lower()}" if name.endswith(" move") else ""
        _die_here(f"{name}{to} before")
        answer = function(*arguments, **named)
        _die_here(f"{name}{to} after")
        return answer

    return step


class _Loader(importlib.abc.Loader):
    def __init__(self, loader) -> None:
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module) -> None:
        self._loader.exec_module(module)
        for name in STEPS[module.__name__]:
            *owner, function = name.split(".")
            place = getattr(module, owner[0]) if owner else module
            setattr(place, function, _wrapped(getattr(place, function), f"{module.__name__} {name}"))
        if module.__name__ == "vllm_portal.children":
            module.LONGEST_PAUSE_S = 1  # who dies often is brought back as soon as who dies once


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in STEPS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = _Loader(spec.loader)
        return spec


if "FAIL_POINT" in os.environ:
    sys.meta_path.insert(0, _Finder())
