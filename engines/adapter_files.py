"""The adapters' files: fetched from the hub into this machine's Hugging Face cache, and where an engine finds them."""

import errno
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from engines import adapters, contained, hub_cache
from engines.adapters import Adapter
from engines.errors import StartFailed
from engines.launchers.container_config import cache_folder
from engines.models import Engine
from engines.start_options import kind_of
from engines.vllm_command import CONTAINER_HF_CACHE, LoraModule
from vllm_portal.config import get_config
from vllm_portal.encryption import decrypt

# huggingface_hub is imported where it is used: it takes half a second and 20 MB.

logger = logging.getLogger(__name__)

LOOK_S = 1.0
_LARGEST_CONFIG = 1 << 20


def has_some_to_fetch(engine: Engine) -> bool:
    """The stand-in engine loads none."""
    return engine.launcher != "simulator" and any(adapter.on_hub for adapter in adapters.of(engine.adapters))


def fetch(engine: Engine, progress: Callable[[str], None]) -> None:
    """Returns when all are there; an adapter that was not fixed to a commit is fixed to the one that came. `progress`
    is called every second, and what it raises ends the wait. Raises StartFailed. May be done again."""
    if not has_some_to_fetch(engine):
        return
    cache = cache_folder(get_config().hf_cache_dir)
    if cache is None:
        raise StartFailed("cache_not_a_folder", adapters.NO_FOLDER, "An admin sets hf_cache_dir to a folder.")
    token = decrypt(engine.hf_token_encrypted)
    fixed = []
    for adapter in adapters.of(engine.adapters):
        commit = _fetched(adapter, cache, token, progress) if adapter.on_hub else ""
        fixed.append(adapter._replace(revision=commit))
    if adapters.rows(fixed) != engine.adapters:
        engine.adapters = adapters.rows(fixed)
        engine.kind = kind_of(vars(engine))
        Engine.objects.filter(pk=engine.pk).update(adapters=engine.adapters, kind=engine.kind)


def modules(engine: Engine) -> tuple[LoraModule, ...]:
    """As vLLM is told of them: where they are for an engine of this launcher."""
    return tuple(LoraModule(adapter.name, _place(engine, adapter)) for adapter in adapters.of(engine.adapters))


def rank(engine: Engine) -> int:
    """For vLLM; 16, which is its own default, at least. What cannot be read now counts as that: vLLM will say."""
    found = [16]
    for adapter in adapters.of(engine.adapters):
        folder = _here(adapter)
        content = contained.read(folder / adapters.CONFIG, _root(folder), _LARGEST_CONFIG) if folder else None
        with suppress(ValueError):
            found.append(adapters.rank_of(content or b""))
    return adapters.max_lora_rank(found)


def folders(engine: Engine) -> tuple[str, ...]:
    """Folders of this machine that an engine in a container has to see."""
    return tuple(adapter.model for adapter in adapters.of(engine.adapters) if not adapter.on_hub)


def _here(adapter: Adapter) -> Path | None:
    """Its folder on this machine; None: there is no cache that the portal can look into."""
    if not adapter.on_hub:
        return Path(adapter.model)
    cache = cache_folder(get_config().hf_cache_dir)
    return None if cache is None else hub_cache.snapshot(cache, adapter.model, adapter.revision)


def _root(folder: Path) -> Path:
    """What links within may lead to: in the cache files are links into the repository's blobs."""
    return folder.parent.parent if folder.parent.name == "snapshots" else folder


def _place(engine: Engine, adapter: Adapter) -> str:
    if not adapter.on_hub or engine.launcher == "simulator":
        return adapter.model
    here = _here(adapter)
    if engine.launcher == "docker" or here is None:
        return str(hub_cache.snapshot(Path(CONTAINER_HF_CACHE), adapter.model, adapter.revision))
    return str(here)


def _fetched(adapter: Adapter, cache: Path, token: str, progress: Callable[[str], None]) -> str:
    """The commit. A thread reads, and one that gets stuck is left behind; it ends with its connection."""
    done: queue.Queue[str | Exception] = queue.Queue()

    def read() -> None:
        try:
            done.put(_download(adapter, cache, token))
        except Exception as error:  # for the other thread to judge
            done.put(error)

    threading.Thread(target=read, name=f"adapter {adapter.name}", daemon=True).start()
    deadline = time.monotonic() + get_config().pull_timeout_seconds
    while True:
        try:
            outcome = done.get(timeout=LOOK_S)
            break
        except queue.Empty:
            if time.monotonic() > deadline:
                raise _unreachable(adapter) from None
            progress(f"fetching the adapter {adapter.name}{_so_far(cache, adapter)}")
    if isinstance(outcome, Exception):
        raise _failure(adapter, outcome) from None  # its text may quote headers
    return outcome


def _download(adapter: Adapter, cache: Path, token: str) -> str:
    from huggingface_hub import hf_hub_download

    config = get_config()
    paths = [
        hf_hub_download(
            adapter.model, name, revision=adapter.revision or None, cache_dir=cache / "hub", token=token or False,
            endpoint=config.hf_endpoint.rstrip("/"), local_files_only=config.hf_offline,
        )
        for name in adapters.FILES
    ]  # fmt: skip
    return Path(paths[0]).parent.name


def _so_far(cache: Path, adapter: Adapter) -> str:
    blobs = cache / "hub" / hub_cache.folder_of(adapter.model) / "blobs"
    size = 0
    with suppress(OSError):
        for path in blobs.iterdir():
            with suppress(OSError):
                size += path.lstat().st_size
    return f": {size / 1e6:.0f} MB" if size >= 5e5 else ""


def _failure(adapter: Adapter, error: Exception) -> StartFailed:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = f"{adapter.model} ({adapter.name})"
    if isinstance(error, GatedRepoError):
        return StartFailed(
            "model_gated", f"The adapter {named} is gated, and the token given has no access to it.",
            "Ask for access on its page, then start the engine with a HUGGING_FACE_HUB_TOKEN of that account.",
        )  # fmt: skip
    if isinstance(error, LocalEntryNotFoundError):
        if get_config().hf_offline:
            return StartFailed(
                "model_not_cached", f"The adapter {named} is not on this machine, and nothing may be downloaded "
                "(hf_offline).", "An admin downloads it into the cache, or switches hf_offline off.",
            )  # fmt: skip
        return _unreachable(adapter)
    if isinstance(error, (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError)):
        return StartFailed(
            "adapter_missing", f"There is no adapter {named}: no {adapters.CONFIG} or no {adapters.WEIGHTS}.",
            "Correct the adapter's repository or revision, or start with a token that may see it.",
        )  # fmt: skip
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return StartFailed("disk_full", "The disk is full.", "Make room on the machine that runs engines.")
    if isinstance(error, PermissionError):
        return StartFailed(
            "cache_not_writable", f"The portal may not write {error.filename or 'the Hugging Face cache'}.",
            "An admin gives the portal's user the right to write to hf_cache_dir.",
        )  # fmt: skip
    logger.warning("the adapter %s cannot be fetched: %s", adapter.model, type(error).__name__)
    return _unreachable(adapter)


def _unreachable(adapter: Adapter) -> StartFailed:
    return StartFailed(
        "hub_unreachable",
        f"The adapter {adapter.model} ({adapter.name}) could not be fetched from the Hugging Face hub.",
        "Check this machine's network; a mirror is set with hf_endpoint.",
    )  # fmt: skip
