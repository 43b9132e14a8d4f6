"""The portal's own logs: no line holds a secret."""

from collections.abc import Iterator

from vllm_portal.config import get_config
from vllm_portal.log import redact


def check() -> Iterator[tuple[str, str, str]]:
    """Names file and line, and not the secret."""
    for path in sorted((get_config().data_dir / "logs").glob("*.log*")):
        with path.open(errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if redact(line) != line:
                    yield "log", f"{path.name}:{number}", "it holds what looks like a secret"
