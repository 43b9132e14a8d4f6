"""What an engine needs of the hub is fetched into the cache before it starts: decision 0026. What that is says
`to_fetch`.

One look at a time, which never waits: a download is a process of its own and goes on between the looks, and without
any. Two engines of the same commit look at the same one.
"""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from engines import adapters, hub_cache, lifecycle, model_cache
from engines.causes import hub as causes
from engines.diagnosis import Diagnosis
from engines.downloads import folder, process, told
from engines.downloads.failures import NO_ROOM, NOT_WRITABLE, UNFORESEEN
from engines.downloads.folder import Download, Order, Outcome
from engines.downloads.told import Fetching, fetching, size
from engines.models import Engine
from engines.states import State
from engines.to_fetch import Part, parts
from engines.to_fetch import folder as downloads_folder
from vllm_portal.config import environment, get_config
from vllm_portal.encryption import decrypt
from vllm_portal.errors import CallerError

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 3.0
"""Between two beginnings of a download that dies."""
MOST_DEATHS = 5
"""In a row, without a byte between them."""
KEPT_DAYS = 90


def has_some(engine: Engine) -> bool:
    """Whether there is something that the portal should fetch; else the engine does, or nobody has to."""
    return any(not part.is_whole for part in parts(engine))


def look(engine: Engine, now: datetime) -> Diagnosis | bool:
    """True: it may start. False: a download goes on. A diagnosis: it is not to be had. Raises OperatorError when the
    secrets cannot be read."""
    for part in parts(engine):
        seen = part.is_whole or _look(engine, part, now)
        if seen is not True:
            return seen
    return True


def watch(engines: Iterable[Engine], now: datetime) -> set[UUID]:
    """Those that are FETCHING and whose download goes on by itself: how far it is is told, of all in one query, and
    there is nothing else to do for them. `look` sees to the others."""
    going = []
    for engine in engines:
        try:
            part = next((part for part in parts(engine) if not part.is_whole), None)
            if part is not None and part.download.is_locked():
                _tell(engine, part, now)
                if not _is_late(engine, now):
                    going.append(engine)
        except OSError as error:
            logger.warning("the download of %s cannot be looked at: %s", engine.name, error.strerror)
    lifecycle.downloading(going)
    return {engine.pk for engine in going}


def _look(engine: Engine, part: Part, now: datetime) -> Diagnosis | bool:
    download = part.download
    if download.is_locked():
        return _goes_on(engine, part, now)
    outcome = download.outcome(_name(engine))
    if outcome is not None and outcome.code:
        return _ended(engine, part, outcome)
    if 0 <= download.age_s() < AGAIN_SECONDS and outcome is None:
        return _goes_on(engine, part, now)
    return _begin(engine, part, now)


def sweep() -> None:
    """Ends what is downloaded for no engine any more, and puts away what is kept of it. What has come stays."""
    downloads = [(one, one.engine()) for one in folder.in_folder(downloads_folder())]
    if not downloads:
        return
    engines = list(Engine.objects.filter(state=State.FETCHING))
    names = {_name(engine) for engine in engines}
    wanted = {part.download.path for engine in engines for part in parts(engine)}
    for download, name in downloads:
        if download.is_locked():
            if name and name not in names and process.end(download):
                logger.info("the download of %s for %s is ended", download.name, name)
        elif download.path not in wanted:
            _put_away(download)


def forget_old(now: datetime) -> None:
    """Which files a commit has, where nobody has asked for it for KEPT_DAYS."""
    folder.forget_older_than(downloads_folder(), now.timestamp() - KEPT_DAYS * 86400)


def end_of(engine: Engine, now: datetime) -> dict[str, Any]:
    """What is kept of downloads that are over."""
    first = (engine.download or {}).get("first")
    sizes = {part.name: part.bytes for part in parts(engine) if part.is_whole}
    if not isinstance(first, dict) or not first.keys() & sizes.keys():
        return told.LEFT
    total = sum(sizes[name] for name in first if name in sizes)
    came = sum(max(sizes[name] - there, 0) for name, there in first.items() if name in sizes)
    took_s = max(now.timestamp() - (engine.download or {})["since"], 0.1)
    return Fetching(total, total, round(came / took_s, 1), 0.0)._asdict()


def _begin(engine: Engine, part: Part, now: datetime) -> Diagnosis | bool:
    deaths = _known(engine, part).get("begun", 0)
    if deaths > MOST_DEATHS:
        words = _last_words(part.download)
        logger.error("the download of %s dies again and again: %s", part.download.name, words)
        return _left_to_the_engine(part, Outcome(UNFORESEEN, "Its download dies again and again."))
    order = Order(
        engine=_name(engine),
        folder=str(downloads_folder()),
        cache=str(part.cache),
        name=part.download.name,
        commit=part.download.commit,
        endpoint=get_config().hf_endpoint,
        token=decrypt(engine.hf_token_encrypted),
        adapter=part.adapter is not None,
    )
    try:
        process.begin(part.download, order, environment())
    except OSError as error:
        logger.warning("the download of %s does not begin: %s", part.download.name, error.strerror)
    engine.download = {**_known(engine, part), "begun": deaths + 1}
    return _goes_on(engine, part, now)


def _known(engine: Engine, part: Part) -> dict[str, Any]:
    """What earlier looks have kept: of this part, and of all together `since` and, by part, how much was there at
    `first`."""
    kept = engine.download or {}
    same = {name: kept[name] for name in ("most", "begun") if name in kept} if kept.get("part") == part.name else {}
    first = kept.get("first")
    return {"part": part.name, **same, "since": kept.get("since"), "first": first if isinstance(first, dict) else {}}


def _goes_on(engine: Engine, part: Part, now: datetime) -> Diagnosis | bool:
    seen = _tell(engine, part, now)
    lifecycle.downloading([engine])
    return _stalled(part, seen) if _is_late(engine, now) else False


def _is_late(engine: Engine, now: datetime) -> bool:
    return engine.deadline_at is not None and now > engine.deadline_at


def _tell(engine: Engine, part: Part, now: datetime) -> Fetching:
    """What it tells is to be shown, and bytes that came move the deadline; nothing is written yet."""
    before = _known(engine, part)
    progress, alive = part.download.progress(), part.download.is_locked()
    seen = fetching(progress, alive)
    most = before.get("most", 0)
    grew = progress.done > most
    engine.download = seen._asdict() | {
        "part": part.name,
        "most": max(most, progress.done),  # a file that has to come once more is no progress
        "begun": 1 if grew else before.get("begun", 0),
        "first": {part.name: progress.done, **before["first"]},
        "since": before["since"] or now.timestamp(),
    }
    engine.detail = (f"{part.told}: {seen.told}" if part.told else seen.told)[:300]
    if grew:
        engine.deadline_at = now + timedelta(seconds=get_config().download_stall_seconds)
    return seen


def _ended(engine: Engine, part: Part, outcome: Outcome) -> Diagnosis | bool:
    if outcome.code in (NOT_WRITABLE, UNFORESEEN):
        return _left_to_the_engine(part, outcome)
    if part.adapter is not None:
        return _of_adapter(part.adapter, outcome, engine)
    name, commit = part.download.name, part.download.commit
    if outcome.code == "hub_unreachable" and hub_cache.seems_whole(part.cache, name, commit):
        return True
    return _diagnosis(outcome.code, outcome.words, _room_advice(engine) if outcome.code == NO_ROOM else "")


def _left_to_the_engine(part: Part, outcome: Outcome) -> Diagnosis | bool:
    """It fetches a model by itself, and may do better; of an adapter it knows but the folder."""
    words = outcome.words or "the cache is not the portal's to write."
    if part.adapter is None:
        logger.warning("the portal does not download %s, its engine does: %s", part.download.name, words)
        return True
    return Diagnosis(
        outcome.code,
        f"The adapter {part.adapter.told} could not be downloaded: {words}",
        "An admin gives the portal's user the right to write to hf_cache_dir."
        if outcome.code == NOT_WRITABLE
        else "Start it again; its operator finds more in the worker's log.",
        {},
    )


def _of_adapter(adapter: adapters.Adapter, outcome: Outcome, engine: Engine) -> Diagnosis:
    if outcome.code == "model_gated":
        return Diagnosis(
            outcome.code,
            f"The adapter {adapter.told} is gated, and the token given has no access to it.",
            "Ask for access on its page, then start the engine with a HUGGING_FACE_HUB_TOKEN of that account.",
        )
    if outcome.code in ("model_not_found", adapters.MISSING):
        return Diagnosis(
            adapters.MISSING,
            outcome.words or f"There is no adapter {adapter.told}, or it is private.",
            "Correct the adapter's repository or revision, or start with a token that may see it.",
        )
    return _diagnosis(
        outcome.code,
        f"The adapter {adapter.told}: {outcome.words}" if outcome.words else "",
        _room_advice(engine) if outcome.code == NO_ROOM else "",
    )


def _stalled(part: Part, seen: Fetching) -> Diagnosis:
    what = part.told or "its model"
    words = f"The download of {what} made no progress for {get_config().download_stall_seconds} s."
    if seen.trouble:
        return _diagnosis("hub_unreachable", f"{words} {seen.trouble}")
    return Diagnosis(
        "stalled",
        words,
        "Start it again; it goes on where it was. A slow network needs a larger download_stall_seconds.",
        {},
    )


def _diagnosis(code: str, words: str, advice: str = "") -> Diagnosis:
    known = next(cause for cause in causes.KNOWN if cause.code == code)
    return Diagnosis(code, words or known.cause, f"{known.advice} {advice}".strip(), known.change({}))


def _room_advice(engine: Engine) -> str:
    """How much could be removed. Whose models these are is told in the log alone: they may be nobody's business."""
    try:
        unused = [one for one in model_cache.listed() if not one.engines and one.model != engine.model]
    except CallerError:
        return ""
    if not unused:
        return "Each model in the cache is in use."
    names = ", ".join(f"{one.model} ({size(one.size_bytes)})" for one in unused[:10])
    logger.warning("no room for %s; no engine uses %s", engine.model, names)
    held = size(sum(one.size_bytes for one in unused))
    return f"Cached models that no engine uses hold {held}: an admin removes them on the page of cached models."


def _put_away(download: Download) -> None:
    with download.locked() as lock:
        if lock is None:
            return  # it has just begun again
        try:
            download.remove()
        except OSError as error:
            logger.warning("what is left of the download of %s stays: %s", download.name, error.strerror)


def _last_words(download: Download) -> str:
    try:
        lines = download.log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


def _name(engine: Engine) -> str:
    return f"{engine.pk}-{engine.generation}"
