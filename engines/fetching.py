"""The model of an engine that comes up is fetched into the cache before it starts: decision 0026.

One look at a time, which never waits: the download is a process of its own and goes on between the looks, and without
any. Two engines of the same commit look at the same one.
"""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from engines import hub_cache, lifecycle, model_cache
from engines.causes import hub as causes
from engines.diagnosis import Diagnosis
from engines.downloads import folder, process
from engines.downloads.failures import NO_ROOM, NOT_WRITABLE, UNFORESEEN
from engines.downloads.folder import Download, Order, Outcome
from engines.downloads.told import Fetching, fetching, size
from engines.downloads.transfer import Cached
from engines.launchers import choice
from engines.launchers.container_config import cache_folder
from engines.models import Engine
from engines.states import State
from vllm_portal.config import environment, get_config
from vllm_portal.encryption import decrypt
from vllm_portal.errors import CallerError

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 3.0
"""Between two beginnings of a download that dies."""
MOST_DEATHS = 5
"""In a row, without a byte between them."""
KEPT_DAYS = 90
_ELSEWHERE_FLAGS = frozenset({"--load-format", "--download-dir", "--ignore-patterns", "--model-loader-extra-config"})
_ELSEWHERE_ENV = frozenset(
    {"HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "VLLM_USE_MODELSCOPE"}
)


def is_the_portals(engine: Engine) -> bool:
    """Whether there is something that the portal should fetch; else the engine does, or nobody has to."""
    config = get_config()
    cache = cache_folder(config.hf_cache_dir)
    return (
        config.hf_download
        and config.hf_check
        and not config.hf_offline
        and engine.launcher != "simulator"
        and choice.is_here(engine.launcher)
        and not engine.model.startswith("/")
        and bool(hub_cache.COMMIT.match(engine.revision))
        and cache is not None
        and not {flag.partition("=")[0] for flag in config.engine_extra_args} & _ELSEWHERE_FLAGS
        and not config.engine_env.keys() & _ELSEWHERE_ENV
        and not _is_whole(_download(engine), cache)
    )


def look(engine: Engine, now: datetime) -> Diagnosis | bool:
    """True: it may start. False: the download goes on. A diagnosis: it is not to be had. Raises OperatorError when the
    secrets cannot be read."""
    cache = cache_folder(get_config().hf_cache_dir)
    if cache is None:
        return True  # the setting was changed meanwhile
    download, name = _download(engine), _name(engine)
    if _is_whole(download, cache):
        return True
    if download.is_locked():
        return _goes_on(engine, download, now)
    outcome = download.outcome(name)
    if outcome is not None and outcome.code:
        return _ended(engine, outcome, cache)
    if 0 <= download.age_s() < AGAIN_SECONDS and outcome is None:
        return _goes_on(engine, download, now)
    return _begin(engine, download, cache, now)


def sweep() -> None:
    """Ends what is downloaded for no engine any more, and puts away what is kept of it. What has come stays."""
    downloads = [(one, one.engine()) for one in folder.in_folder(_folder())]
    if not downloads:
        return
    engines = list(Engine.objects.filter(state=State.FETCHING))
    names = {_name(engine) for engine in engines}
    wanted = {_download(engine).path for engine in engines}
    for download, name in downloads:
        if download.is_locked():
            if name and name not in names and process.end(download):
                logger.info("the download of %s for %s is ended", download.name, name)
        elif download.path not in wanted:
            _put_away(download)


def forget_old(now: datetime) -> None:
    """Which files a commit has, where nobody has asked for it for KEPT_DAYS."""
    folder.forget_older_than(_folder(), now.timestamp() - KEPT_DAYS * 86400)


def end_of(engine: Engine, now: datetime) -> dict[str, Any] | None:
    """What is kept of a download that is over. None: there was nothing to download, or it is left to the engine."""
    files = _download(engine).files()
    if not engine.download or files is None:
        return None
    total = sum(one.size for one in files)
    took_s = max(now.timestamp() - engine.download["since"], 0.1)
    speed = round(max(total - engine.download["first"], 0) / took_s, 1)
    return Fetching(total, total, speed, 0.0)._asdict()


def _begin(engine: Engine, download: Download, cache: Path, now: datetime) -> Diagnosis | bool:
    deaths = (engine.download or {}).get("begun", 0)
    if deaths > MOST_DEATHS:
        logger.error("the download of %s dies again and again: %s", engine.model, _last_words(download))
        return True  # the engine may do better
    order = Order(
        engine=_name(engine),
        folder=str(_folder()),
        cache=str(cache),
        name=engine.model,
        commit=engine.revision,
        endpoint=get_config().hf_endpoint,
        token=decrypt(engine.hf_token_encrypted),
    )
    try:
        process.begin(download, order, environment())
    except OSError as error:
        logger.warning("the download of %s does not begin: %s", engine.model, error.strerror)
    engine.download = {**(engine.download or {}), "begun": deaths + 1}
    return _goes_on(engine, download, now)


def _goes_on(engine: Engine, download: Download, now: datetime) -> Diagnosis | bool:
    """What it tells is shown, and bytes that came move the deadline."""
    before = engine.download or {}
    progress, alive = download.progress(), download.is_locked()
    seen = fetching(progress, alive)
    most = before.get("most", 0)
    grew = progress.done > most
    told = seen._asdict() | {
        "most": max(most, progress.done),  # a file that has to come once more is no progress
        "begun": 1 if grew else before.get("begun", 0),
        "first": before.get("first", progress.done),
        "since": before.get("since", now.timestamp()),
    }
    lifecycle.downloading(engine, now, told, seen.told, grew)
    if engine.deadline_at and now > engine.deadline_at:
        return _stalled(seen)
    return False


def _ended(engine: Engine, outcome: Outcome, cache: Path) -> Diagnosis | bool:
    if outcome.code in (NOT_WRITABLE, UNFORESEEN):
        logger.warning(
            "the portal does not download %s, its engine does: %s",
            engine.model,
            outcome.words or "the cache is not its own",
        )
        return True
    if outcome.code == "hub_unreachable" and hub_cache.seems_whole(cache, engine.model, engine.revision):
        return True
    return _diagnosis(outcome.code, outcome.words, _room_advice(engine) if outcome.code == NO_ROOM else "")


def _stalled(seen: Fetching) -> Diagnosis:
    words = f"The download of its model made no progress for {get_config().download_stall_seconds} s."
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


def _is_whole(download: Download, cache: Path) -> bool:
    files = download.files()
    if files is None:
        return False
    cached = Cached(cache, download.name, download.commit)
    return all(cached.has(one) for one in files)


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


def _download(engine: Engine) -> Download:
    return Download(_folder(), engine.model, engine.revision)


def _name(engine: Engine) -> str:
    return f"{engine.pk}-{engine.generation}"


def _folder() -> Path:
    return get_config().data_dir / "downloads"
