"""The adapters' files: which commits they are of, and where an engine finds them. They are fetched as its model is:
`to_fetch`."""

from pathlib import Path

from engines import adapters, contained, hub, hub_cache
from engines.adapters import Adapter
from engines.errors import StartFailed
from engines.hub import Wanted
from engines.launchers.container_config import cache_folder
from engines.models import Engine
from engines.start_options import kind_of
from engines.vllm_command import CONTAINER_HF_CACHE, LoraModule
from vllm_portal.config import get_config
from vllm_portal.encryption import decrypt
from vllm_portal.errors import FieldError


def wants_a_look(engine: Engine) -> bool:
    """Whether `settle` has something to do or to say. The stand-in engine loads none."""
    config = get_config()
    given = [one for one in adapters.of(engine.adapters) if one.on_hub and engine.launcher != "simulator"]
    fixed = all(hub_cache.COMMIT.match(one.revision) for one in given)
    return bool(given) and (not fixed or config.hf_offline or cache_folder(config.hf_cache_dir) is None)


def settle(engine: Engine) -> None:
    """An adapter that was not fixed to a commit before the start, as the hub did not tell, is fixed to one now. Takes
    up to hf_check_timeout_s. Raises StartFailed, also where one is not there and may not be fetched. May be done
    again."""
    if not wants_a_look(engine):
        return
    cache = cache_folder(get_config().hf_cache_dir)
    if cache is None:
        raise StartFailed("cache_not_a_folder", adapters.NO_FOLDER, "An admin sets hf_cache_dir to a folder.")
    fixed = _fixed(engine, cache)
    if get_config().hf_offline:
        for adapter in fixed:
            _refuse_absent(adapter, cache)
    if adapters.rows(fixed) != engine.adapters:
        engine.adapters = adapters.rows(fixed)
        engine.kind = kind_of(vars(engine))
        Engine.objects.filter(pk=engine.pk).update(adapters=engine.adapters, kind=engine.kind)


def modules(engine: Engine) -> tuple[LoraModule, ...]:
    """As vLLM is told of them: where they are for an engine of this launcher."""
    return tuple(LoraModule(adapter.name, _place(engine, adapter)) for adapter in adapters.of(engine.adapters))


def rank(engine: Engine) -> int:
    """For vLLM. What cannot be read now counts as LEAST_RANK: vLLM will say."""
    folders = [folder for adapter in adapters.of(engine.adapters) if (folder := _here(adapter))]
    told = [told_rank(folder, _root(folder)) for folder in folders]
    return adapters.max_lora_rank([adapters.LEAST_RANK, *filter(None, told)])


def told_rank(folder: Path, inside: Path) -> int | None:
    """As the files of an adapter say, whose links may lead to `inside`. None: they are not there, or say nothing."""
    content = contained.read(folder / adapters.CONFIG, inside, hub.LARGEST_CONFIG)
    try:
        return adapters.rank_of(content or b"")
    except ValueError:
        return None


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


def _fixed(engine: Engine, cache: Path) -> list[Adapter]:
    given = adapters.of(engine.adapters)
    loose = {
        hub.adapter_field(number): Wanted(one.model, one.revision)
        for number, one in enumerate(given)
        if one.on_hub and not hub_cache.COMMIT.match(one.revision)
    }
    commits = {field: hub_cache.commit_of(cache, *wanted) for field, wanted in loose.items()}
    if loose and not get_config().hf_offline:
        commits |= _asked(loose, decrypt(engine.hf_token_encrypted))
    fixed = [
        one._replace(revision=commits.get(hub.adapter_field(number), one.revision)) for number, one in enumerate(given)
    ]
    for one in fixed:
        if one.on_hub and not one.revision:
            raise _unknown(one)
    return fixed


def _asked(loose: dict[str, Wanted], token: str) -> dict[str, str]:
    config = get_config()
    try:
        return dict(hub.check(loose, token, config.hf_endpoint, config.hf_check_timeout_s).commits)
    except FieldError as error:
        if error.field == hub.TOKEN_FIELD:
            raise StartFailed("model_gated", str(error), "Start it with a HUGGING_FACE_HUB_TOKEN that may.") from None
        raise StartFailed(adapters.MISSING, str(error), "Correct the adapter's repository or revision.") from None


def _unknown(adapter: Adapter) -> StartFailed:
    if get_config().hf_offline:
        return _not_here(adapter)
    return StartFailed(
        "hub_unreachable",
        f"The Hugging Face hub does not tell about the adapter {adapter.told}.",
        "Check this machine's network; a mirror is set with hf_endpoint.",
    )


def _refuse_absent(adapter: Adapter, cache: Path) -> None:
    folder = hub_cache.snapshot(cache, adapter.model, adapter.revision)
    if adapter.on_hub and not all((folder / name).is_file() for name in adapters.FILES):
        raise _not_here(adapter)


def _not_here(adapter: Adapter) -> StartFailed:
    return StartFailed(
        "model_not_cached",
        f"The adapter {adapter.told} is not on this machine, and nothing may be downloaded (hf_offline).",
        "An admin downloads it into the cache, or switches hf_offline off.",
    )
