"""The Hugging Face token, as it comes into a container. Pure."""

import io
import tarfile
import time

from engines.launchers.container_config import TOKEN_PATH


def archive(token: str, readable_by_all: bool) -> bytes:
    """A tar of one file at TOKEN_PATH, for root alone unless the image runs as somebody else."""
    content = token.encode()
    entry = tarfile.TarInfo(TOKEN_PATH.lstrip("/"))
    entry.size, entry.mode, entry.mtime = len(content), 0o444 if readable_by_all else 0o400, int(time.time())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
