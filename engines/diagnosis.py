"""Why an engine ended: its log and what the launcher saw, to a cause and what to do about it. Pure.

The last lines of vLLM's log are rarely the cause ("Engine core initialization failed. See root cause above."). So known
causes are looked for first, the most telling before the more general, and only then the first line that reads like an
error counts.
"""

import re
from dataclasses import dataclass

from engines.causes import KNOWN
from engines.causes.base import Change, Known
from engines.launchers.base import Observation, Status
from vllm_portal.log import redact

LONGEST_CAUSE = 600
LONGEST_LINE = 2_000
"""What follows in a line is not looked at, so that no log takes long."""


@dataclass(frozen=True)
class Diagnosis:
    """`code` is for programs, `cause` one sentence for people, `advice` what to change ("" where nobody knows).

    `change`: options of a start and their new values that may cure it, None as a value: without it. {}: the same start
    again may work. None: nothing that a user can change.
    """

    code: str
    cause: str
    advice: str = ""
    change: Change | None = None


_ENGINE_DIED = re.compile(
    r"EngineDeadError|EngineCore encountered an issue|died unexpectedly|Engine core initialization failed"
    r"|Engine process failed to start"
)
_ERROR = re.compile(r"(?P<words>(?:\b[A-Za-z_][\w.]*(?:Error|Exception)|Value error)\b[:,] .+)")
_NO_CAUSE = re.compile(r"See root cause|See stack trace|^\s*(?:File \"|raise )|EngineDeadError|CancelledError")
_CRASHED = re.compile(r"(?m)^(?:Fatal Python error|!!!!!!! Segfault encountered)")
_KILLED = re.compile(r"Failed core proc\(s\): \{[^}]*: -9\b")
# A log's harmless lines quote errors ("can cause errors like `OSError: …`") and options ("trust_remote_code=True").
_HARMLESS = re.compile(
    r"\b(?:WARNING|INFO|DEBUG) \d\d-\d\d |Warning: |^(?:INFO|WARNING):  |^\S+ \[\d+\] NCCL INFO"
    r"|thrown while requesting (?:GET|HEAD) |^Retrying in \d"
)
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
# What vLLM writes in front: the process (of a core and its worker two), then level, time and place, of 0.4 to 0.32:
#   (EngineCore pid=7) (Worker_TP0 pid=9) ERROR 11-22 22:06:05 [core.py:1] …      ERROR 08-21 03:42:51 engine.py:366] …
_PREFIX = re.compile(
    r"^(?:\[rank\d+\]: ?)?(?:\([A-Z][^)]*\b(?:pid=\d+)[^)]*\) ?)*(?:ERROR \d\d-\d\d [\d:]+ (?:\[[^\]]*\]|\S+:\d+\]) ?)?"
)
_HAS_COME_UP = re.compile(r"Application startup complete\.")
_OF_THE_API = re.compile(r"^\(APIServer pid=\d+\)")


def diagnose(log: str, seen: Observation, came_up: bool = False) -> Diagnosis:
    """Why it is no longer there. `log` may be "" or have its middle left out; `seen` is EXITED or GONE. `came_up`: it
    has served, also if the log does not say so any more; what can only go wrong at a start is then no cause."""
    if seen.oom_killed:
        return Diagnosis(
            "out_of_memory",
            "The system ended it because it used more memory than it may.",
            "Take a smaller model or MAX_MODEL_LEN, or have an admin raise docker_memory.",
        )
    raw = [line[:LONGEST_LINE] for line in re.split(r"[\r\n]+", _COLOURS.sub("", log))]
    lines = [_PREFIX.sub("", line) for line in _since_it_came_up(raw, came_up) if not _HARMLESS.search(line)]
    text = "\n".join(lines)
    if came_up or any(_HAS_COME_UP.search(line) for line in raw):
        serving = [cause for cause in KNOWN if cause.serving]
        return _from_known(text, serving) or _from_end(text, seen)
    return _from_known(text, KNOWN) or _from_first_error(lines) or _from_end(text, seen)


def _since_it_came_up(lines: list[str], came_up: bool) -> list[str]:
    """All lines of a start. Of an engine that has served: what it said before is past, and most of what its API server
    says since is of somebody's request."""
    marks = [number for number, line in enumerate(lines) if _HAS_COME_UP.search(line)]
    if not (marks or came_up):
        return lines
    since = lines[marks[-1] + 1 :] if marks else lines
    return [line for line in since if _ENGINE_DIED.search(line) or not _OF_THE_API.search(line)]


def stalled(seconds: float, doing: str) -> Diagnosis:
    """Its log has said nothing new for so long while it came up; `doing`: what it said last."""
    last = f" It said last: {doing}." if doing else ""
    return Diagnosis(
        "stalled",
        f"It made no progress for {seconds:.0f} s while it came up.{last}",
        "Look at its log. A slow disk or network needs a larger load_stall_seconds.",
        {},
    )


def _from_known(text: str, causes: list[Known]) -> Diagnosis | None:
    for known in causes:
        if found := known.pattern.search(text):
            groups = {name: value.strip(" .") for name, value in found.groupdict("").items()}
            cause, advice = known.cause.format(**groups), known.advice.format(**groups)
            return Diagnosis(known.code, _clean(cause), _clean(advice), known.change(groups))
    return None


def _from_first_error(lines: list[str]) -> Diagnosis | None:
    for line in lines:
        if (found := _ERROR.search(line)) and not _NO_CAUSE.search(line):
            return Diagnosis("vllm_error", _clean(found["words"]), "Look at its log.")
    return None


def _from_end(text: str, seen: Observation) -> Diagnosis:
    if seen.exit_code == 137 or _KILLED.search(text):
        return Diagnosis(
            "killed",
            "It was killed (signal 9): by hand, or by the system when memory ran out.",
            "Look at the machine's free memory; take a smaller model or MAX_MODEL_LEN.",
            {},
        )
    if _CRASHED.search(text) or seen.exit_code in (134, 135, 139):
        return Diagnosis(
            "crashed",
            "The program itself crashed (a segmentation fault or the like).",
            "Start it again. If that happens again, have an admin try another docker_image.",
            {},
        )
    if _ENGINE_DIED.search(text):
        return Diagnosis(
            "engine_died",
            "A worker of the engine died, and the engine ended with it.",
            "Start it again. If that happens more often, look at its log and at the system's.",
            {},
        )
    if seen.status is Status.GONE:
        return Diagnosis(
            "removed",
            "The container or process was removed from outside the portal.",
            "Start it again; end engines through the portal.",
            {},
        )
    if seen.message:
        return Diagnosis("ended", _clean(f"It ended: {seen.message}."), "Look at its log.")
    code = "" if seen.exit_code is None else f" with exit code {seen.exit_code}"
    return Diagnosis("ended", f"It ended{code} and did not say why.", "Look at its log.")


def one_line(text: str) -> str:
    """What came from outside as one line that any database takes: nothing in it but characters one can see."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _clean(cause: str) -> str:
    """One line without secrets, not too long."""
    line = redact(one_line(cause))
    return line if len(line) <= LONGEST_CAUSE else line[: LONGEST_CAUSE - 1] + "…"
