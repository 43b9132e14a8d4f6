"""Each setting as it counts in this process, and where it comes from; secrets are not shown."""

from typing import NamedTuple

from pydantic import SecretStr

from vllm_portal.config import Config, get_config, origin


class InForce(NamedTuple):
    name: str
    value: str
    origin: str
    description: str


def settings_in_force() -> list[InForce]:
    config = get_config()
    return [
        InForce(name, _shown(getattr(config, name)), origin(name), field.description or "")
        for name, field in Config.model_fields.items()
    ]


def _shown(value: object) -> str:
    """As people read it. An environment's values may be secrets, too: only its names are told."""
    if value is None:
        return "unset"
    if isinstance(value, SecretStr):
        return "set (secret)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return ", ".join(sorted(value)) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
