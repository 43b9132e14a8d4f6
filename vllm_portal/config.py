"""The settings of this process (`vllm_portal.config_fields`), and where each comes from.

A setting comes from, strongest first: a flag of `manage.py run` (handed on as environment), the environment
(`PORTAL_<NAME>`), `cluster_config.yaml` (or the file that `PORTAL_CONFIG` names), the default below.
This is the only module that reads the environment.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsError,
    YamlConfigSettingsSource,
)

from vllm_portal.config_fields import Fields
from vllm_portal.setting_types import PROJECT_ROOT as PROJECT_ROOT
from vllm_portal.setting_types import absolute


class ConfigError(Exception):
    """The settings cannot be used; the message is one line per wrong setting and says what to change."""


class Config(Fields):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=config_file())

    @property
    def redis_socket(self) -> Path:
        """Unix socket of the private Redis that `manage.py run` starts."""
        return self.data_dir / "redis" / "redis.sock"

    @property
    def pages_socket(self) -> Path:
        """Unix socket of the process that serves Django's pages; the web processes pass on to it."""
        return self.data_dir / "pages" / "pages.sock"

    @property
    def journal_dir(self) -> Path:
        """What the processes of the data plane have settled, each in a file of its own."""
        return self.data_dir / "journal"

    @property
    def redis(self) -> str:
        return self.redis_url.get_secret_value() if self.redis_url else f"unix://{self.redis_socket}"

    @property
    def celery_broker(self) -> str:
        """Celery's spelling of the same address: it calls a unix socket `redis+socket`."""
        return "redis+socket" + self.redis.removeprefix("unix") if self.redis.startswith("unix://") else self.redis

    @property
    def database(self) -> str:
        return (
            self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.data_dir}/portal.sqlite3"
        )


def config_file() -> Path:
    return absolute(Path(os.environ.get("PORTAL_CONFIG", "cluster_config.yaml")))


def read_config(**flags: Any) -> Config:
    """Reads all sources anew. Raises ConfigError."""
    if "HF_ENDPOINT" in os.environ and "PORTAL_HF_ENDPOINT" not in os.environ:
        flags.setdefault("hf_endpoint", os.environ["HF_ENDPOINT"])
    try:
        return Config(**flags)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors(include_input=False))) from None
    except SettingsError as error:  # a variable that must be JSON, such as PORTAL_ENGINE_ENV, and is not
        raise ConfigError(f"{' '.join(str(error).split())}: it must be JSON") from None
    except OSError as error:
        raise ConfigError(f"cannot read {config_file()}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{config_file()} is not valid YAML: {' '.join(str(error).split())}") from None


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"{name}: no such setting in {config_file()}; cluster_config.example.yaml names them all"
    return f"{name}: {problem['msg']} (set it in {config_file()} or as PORTAL_{name.upper()})"


@lru_cache(maxsize=1)
def get_config() -> Config:
    """The settings of this process; read once."""
    return read_config()


_FLAGS = "VLLM_PORTAL_FLAGS"
"""Names those settings that flags have put into the environment."""


def origin(name: str) -> str:
    """Where a setting comes from: "flag", "environment", "file" or "default"."""
    if name in os.environ.get(_FLAGS, "").split():
        return "flag"
    given = {variable.upper() for variable in os.environ}
    if f"PORTAL_{name.upper()}" in given or (name == "hf_endpoint" and "HF_ENDPOINT" in given):
        return "environment"
    return "file" if name in get_config().model_fields_set else "default"


def environment(**additions: str) -> dict[str, str]:
    """This process's environment with additions: what a child of the portal gets."""
    return {**os.environ, **additions}


def hand_on(flags: dict[str, str]) -> None:
    """Makes flags (setting: value) count in this process and in all it starts. To be called before `get_config`."""
    os.environ.update({f"PORTAL_{name.upper()}": value for name, value in flags.items()})
    os.environ[_FLAGS] = " ".join(flags)


def ineffective() -> list[str]:
    """What was given and does not count, one sentence each: a misspelt variable, a file that is not there."""
    clients = {"PORTAL_URL", "PORTAL_KEY"}  # of the command line `portal`
    known = {f"PORTAL_{name.upper()}" for name in Config.model_fields} | {"PORTAL_CONFIG"} | clients
    given = [name for name in os.environ if name.startswith("PORTAL_")]
    doubts = [f"{name} is no setting and has no effect" for name in sorted(given) if name not in known]
    if "PORTAL_CONFIG" in os.environ and (config_file().is_dir() or not config_file().exists()):
        doubts.append(f"PORTAL_CONFIG names {config_file()}, which is no file")
    return doubts
