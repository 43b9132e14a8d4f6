"""How much of vLLM an order's adapters ask for: how many they are, and their ranks as their files say."""

from pathlib import Path

from engines import adapter_files, adapters, hub, hub_cache
from engines.adapters import Adapter
from engines.fit.lora import Lora
from engines.launchers.container_config import cache_folder
from engines.waiting import release_database
from vllm_portal.config import get_config


def of(given: tuple[Adapter, ...], token: str) -> tuple[Lora | None, list[str]]:
    """And names of those whose rank nobody tells. Asks the hub as a start does, so it takes up to hf_check_timeout_s.
    Raises FieldError as a start does."""
    if not given:
        return None, []
    told = _of_the_hub(given, token)
    found = {one.name: told.get(hub.adapter_field(number)) or _here(one) for number, one in enumerate(given)}
    rank = adapters.max_lora_rank([adapters.LEAST_RANK, *filter(None, found.values())])
    return Lora(len(given), rank), [name for name, known in found.items() if known is None]


def _of_the_hub(given: tuple[Adapter, ...], token: str) -> dict[str, int]:
    config = get_config()
    wanted = {
        hub.adapter_field(number): hub.Wanted(one.model, one.revision) for number, one in enumerate(given) if one.on_hub
    }
    if not wanted or config.hf_offline or not config.hf_check:
        return {}
    release_database()
    return dict(hub.check(wanted, token, config.hf_endpoint, config.hf_check_timeout_s).ranks)


def _here(adapter: Adapter) -> int | None:
    """As its files on this machine say. None: they are not here, or say nothing."""
    folder, inside = Path(adapter.model), Path(adapter.model)
    if adapter.on_hub:
        cache = cache_folder(get_config().hf_cache_dir)
        commit = hub_cache.commit_of(cache, adapter.model, adapter.revision) if cache else ""
        if cache is None or not commit:
            return None
        folder = hub_cache.snapshot(cache, adapter.model, commit)
        inside = folder.parent.parent
    return adapter_files.told_rank(folder, inside)
