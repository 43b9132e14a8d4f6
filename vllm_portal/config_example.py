"""The example of `cluster_config.yaml` and its JSON schema, made from the settings."""

import json
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined, to_jsonable_python

from vllm_portal.config import PROJECT_ROOT, Config

_HEAD = """\
# yaml-language-server: $schema=docs/cluster_config.schema.json
#
# Every setting of the portal with its default. Copy this file to cluster_config.yaml and uncomment what you change.
# The environment (PORTAL_PORT=8087) is stronger than this file, a flag of `manage.py run` (--port 8087) stronger still.
"""


def files() -> dict[Path, str]:
    """Path and content of each file that is made from the settings."""
    return {
        PROJECT_ROOT / "cluster_config.example.yaml": example(),
        PROJECT_ROOT / "docs" / "cluster_config.schema.json": schema(),
    }


def default(name: str) -> Any:
    """A setting's default as it is written in the file."""
    value = Config.model_fields[name].default
    if value is PydanticUndefined:
        raise ValueError(f"{name} has no default: the portal must start without a config file")
    return to_jsonable_python(value)


def example() -> str:
    parts = [_HEAD]
    for name, field in Config.model_fields.items():
        parts.append(f"# {field.description}\n#{name}: {json.dumps(default(name))}\n")  # JSON is YAML
    return "\n".join(parts)


def schema() -> str:
    return (
        json.dumps(
            {"title": "cluster_config.yaml", **_without_title(Config.model_json_schema())}, indent=2, ensure_ascii=False
        )
        + "\n"
    )


def _without_title(node: dict[str, Any]) -> dict[str, Any]:
    """Pydantic gives each key a title that only repeats its name."""
    properties = {
        name: {key: value for key, value in part.items() if key != "title"} for name, part in node["properties"].items()
    }
    return {
        **{key: value for key, value in node.items() if key not in ("title", "description")},
        "properties": properties,
    }
