"""What can go wrong while a model is downloaded, by the codes of `engines.causes`.

What passes by itself is tried again; `code` is then what it is called where it does not pass after all.
"""

import errno
from typing import NamedTuple

from engines import adapters

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP)
_BUSY = (408, 425, 429)

NOT_WRITABLE = "cache_not_writable"
NO_ROOM = "disk_full"
UNFORESEEN = "download_failed"


class Failure(NamedTuple):
    """`words`: one sentence; "": what the code always says."""

    code: str
    words: str = ""
    passes: bool = False


class Broken(Exception):
    """What came is not what the commit says, by size or by hash."""


class CutShort(Exception):
    """An answer ended before the file did."""


class NoAdapter(Exception):
    """The repository holds none. The message is one sentence."""


class NoRoom(Exception):
    """The message is one sentence."""


def failure_of(error: BaseException) -> Failure | None:
    """None: nothing that is known. No text of the library's: it quotes addresses that are keys for a while."""
    import httpx2
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, NoRoom):
        return Failure(NO_ROOM, str(error))
    if isinstance(error, NoAdapter):
        return Failure(adapters.MISSING, str(error))
    if isinstance(error, Broken):
        return Failure("weights_broken", str(error))
    if isinstance(error, CutShort):
        return Failure("hub_unreachable", "The Hugging Face hub ends its answers too early.", passes=True)
    if isinstance(error, GatedRepoError):
        return Failure("model_gated")
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | DisabledRepoError):
        return Failure("model_not_found")
    if isinstance(error, HfHubHTTPError):
        return of_status(error.response.status_code)
    if isinstance(error, httpx2.TransportError):
        return Failure("hub_unreachable", f"The Hugging Face hub cannot be reached: {_reason(error)}.", passes=True)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return Failure(NO_ROOM)
    if isinstance(error, OSError) and error.errno in _NOT_ALLOWED:
        return Failure(NOT_WRITABLE)
    return None


def of_status(status: int) -> Failure:
    if status == 401:
        return Failure("token_invalid")
    if status == 403:
        return Failure("model_gated")
    if status == 404:
        return Failure("weights_broken", "The hub does not have all files that it lists of this commit.")
    if status == 416:
        return Failure("weights_broken", "The hub has a smaller file than it lists of this commit.")
    words = "asks to come back later (429)" if status == 429 else f"answers with {status}"
    return Failure("hub_unreachable", f"The Hugging Face hub {words}.", passes=status in _BUSY or status >= 500)


def _reason(error: Exception) -> str:
    text = str(error)
    for words, reason in (
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
        ("SSL", "the encrypted connection failed"),
        ("refused", "the connection is refused"),
        ("Name or service", "its name is not known"),
        ("name resolution", "its name is not known"),
    ):
        if words in text:
            return reason
    return type(error).__name__
