"""What the portal downloads for an engine before it starts: its adapters, then its model. Decisions 0026 and 0028.

Adapters come first: they are small, so what is wrong with one shows at once, and the check of the disk for the model
counts them.
"""

from pathlib import Path
from typing import NamedTuple

from engines import adapters, hub_cache
from engines.adapters import Adapter
from engines.downloads.folder import Download
from engines.downloads.transfer import Cached, size_of
from engines.launchers import choice
from engines.launchers.container_config import cache_folder
from engines.models import Engine
from vllm_portal.config import get_config

_ELSEWHERE_FLAGS = frozenset({"--load-format", "--download-dir", "--ignore-patterns", "--model-loader-extra-config"})
_ELSEWHERE_ENV = frozenset(
    {"HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "VLLM_USE_MODELSCOPE"}
)


class Part(NamedTuple):
    """One commit. `adapter` None: the model."""

    download: Download
    cache: Path
    adapter: Adapter | None = None

    @property
    def name(self) -> str:
        return self.download.path.name

    @property
    def told(self) -> str:
        """For people: which adapter it is; "": the model."""
        return f"the adapter {self.adapter.name}" if self.adapter else ""

    @property
    def is_whole(self) -> bool:
        if self.adapter is not None:
            return all(size_of(path) is not None for path in self._adapters_files)
        files = self.download.files()
        if files is None:
            return False
        cached = Cached(self.cache, self.download.name, self.download.commit)
        return all(cached.has(one) for one in files)

    @property
    def bytes(self) -> int:
        """Of one that is whole."""
        if self.adapter is not None:
            return sum(size_of(path) or 0 for path in self._adapters_files)
        return sum(one.size for one in self.download.files() or ())

    @property
    def _adapters_files(self) -> list[Path]:
        folder = hub_cache.snapshot(self.cache, self.download.name, self.download.commit)
        return [folder / name for name in adapters.FILES]


def parts(engine: Engine) -> list[Part]:
    """Whole or not. What is not here is there, or the engine downloads it, or nobody may."""
    cache = cache_folder(get_config().hf_cache_dir)
    if cache is None or get_config().hf_offline or engine.launcher == "simulator":
        return []
    loaded = [
        Part(Download(folder(), adapter.model, adapter.revision, adapter=True), cache, adapter)
        for adapter in adapters.of(engine.adapters)
        if adapter.on_hub and hub_cache.COMMIT.match(adapter.revision)
    ]
    return [*loaded, *([Part(Download(folder(), engine.model, engine.revision), cache)] if _model(engine) else [])]


def folder() -> Path:
    return get_config().data_dir / "downloads"


def _model(engine: Engine) -> bool:
    config = get_config()
    return (
        config.hf_download
        and config.hf_check
        and choice.is_here(engine.launcher)
        and not engine.model.startswith("/")
        and bool(hub_cache.COMMIT.match(engine.revision))
        and not {flag.partition("=")[0] for flag in config.engine_extra_args} & _ELSEWHERE_FLAGS
        and not config.engine_env.keys() & _ELSEWHERE_ENV
    )
