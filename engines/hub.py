"""What the Hugging Face hub says about a model and a token, before anything is started.

Only what the hub says clearly keeps an engine from starting. A hub that cannot be reached, is overloaded, is slow, or
says something else is no reason: the model may be in the cache, and vLLM will say what is wrong.
"""

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engines import adapters
from vllm_portal.errors import FieldError, Unavailable

# huggingface_hub is imported where it is used: it takes half a second and 20 MB.

logger = logging.getLogger(__name__)

TOKEN_FIELD = "HUGGING_FACE_HUB_TOKEN"  # noqa: S105 (a field's name)
ADAPTERS = "ADAPTERS"
_UNCLEAR = object()
LARGEST_CONFIG = 1 << 20
"""A config.json above a mebibyte is none."""


class Wanted(NamedTuple):
    """A repository, and a branch, tag or commit of it; "": its main branch."""

    name: str
    revision: str = ""


def adapter_field(number: int) -> str:
    """What `check` knows the adapters by. Errors name the field ADAPTERS."""
    return f"{ADAPTERS} {number}"


def _is_adapter(field: str) -> bool:
    return field.startswith(ADAPTERS)


@dataclass(frozen=True)
class Told:
    """`account`: the name of the token's, "" without a token. `commits`: of the repositories, by field; `ranks`: of
    those that are adapters. What the hub does not tell is "" or missing."""

    account: str
    commits: Mapping[str, str]
    ranks: Mapping[str, int] = field(default_factory=dict)


class Loadable(NamedTuple):
    """An adapter that vLLM can load."""

    commit: str
    rank: int


@dataclass(frozen=True)
class Repository:
    """What the hub says of a model's files. `config`: what config.json holds, None where there is none; `parameters`:
    numbers by type, as the hub counted them in safetensors files, {} where it has not."""

    commit: str
    config: bytes | None
    file_bytes: Mapping[str, int]
    parameters: Mapping[str, int]


def check(repositories: Mapping[str, Wanted], token: str, endpoint: str, timeout_s: float) -> Told:
    """`repositories` maps a field of the request to the repository that it names. Raises FieldError for a token that
    the hub does not know, a model or revision that is not there, and a model that the token may not read. Takes
    `timeout_s` at most.
    """
    asker = _Asker(endpoint, token, timeout_s)
    pool = ThreadPoolExecutor(len(repositories) + 1, "hub")
    try:
        account = pool.submit(asker.account)
        models = {
            field: pool.submit(asker.adapter if _is_adapter(field) else asker.commit, field, wanted)
            for field, wanted in repositories.items()
        }
        wait_for([account, *models.values()], timeout=timeout_s)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    name = _outcome(account)
    if isinstance(name, FieldError):
        raise name
    commits, ranks = {}, {}
    for called, model in models.items():
        found = _outcome(model)
        if isinstance(found, FieldError):
            raise found
        if isinstance(found, Loadable):
            found, ranks[called] = found.commit, found.rank
        if isinstance(found, str):
            commits[called] = found
    return Told(name if isinstance(name, str) else "", commits, ranks)


def read(field: str, wanted: Wanted, token: str, endpoint: str, timeout_s: float) -> Repository:
    """A model's config.json and the sizes of its files. Takes `timeout_s` at most.

    Raises FieldError as `check` does, and Unavailable where the hub is away, too slow, or does not tell.
    """
    asker = _Asker(endpoint, token, timeout_s)
    pool = ThreadPoolExecutor(1, "hub")
    try:
        reading = pool.submit(asker.repository, field, wanted)
        wait_for([reading], timeout=timeout_s)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    found = _outcome(reading)
    if isinstance(found, FieldError):
        raise found
    if not isinstance(found, Repository):
        raise Unavailable(
            f"The Hugging Face hub does not tell about {wanted.name} now; try again later.", retry_after_s=30
        )
    return found


def _outcome(answer: "Future[Any]") -> Any:
    """_UNCLEAR for what did not come in time or failed; that is logged without its text, which may quote headers."""
    if not answer.done():
        return _UNCLEAR
    error = answer.exception()
    if error is not None:
        logger.warning("the hub could not be asked: %s", type(error).__name__)
        return _UNCLEAR
    return answer.result()


class _Asker:
    """One caller's questions. Each method is run in a thread of its own."""

    def __init__(self, endpoint: str, token: str, timeout_s: float) -> None:
        api = _api(endpoint, timeout_s)
        self._api, self._timeout_s = api, timeout_s
        # False and not None: without one the library would take the token of whoever runs the portal.
        self._token: str | bool = token or False

    def account(self) -> str | FieldError:
        """The name of the token's account, "" where it is unknown."""
        from huggingface_hub.errors import HfHubHTTPError

        if not self._token:
            return ""
        try:
            answer = self._api.whoami(token=self._token)
        except HfHubHTTPError as error:
            return _bad_token() if _status(error) == 401 else ""
        name = answer.get("name") if isinstance(answer, dict) else None
        return name[:100] if isinstance(name, str) else ""

    def commit(self, field: str, wanted: Wanted) -> str | FieldError | None:
        """None: it is there and may be read, or nobody knows."""
        try:
            info = self._info(wanted)
            if info.gated:  # its card is for everyone, its files are not
                self._api.auth_check(wanted.name, token=self._token)
        except OSError as error:  # what the library raises for an answer that is no 200
            return self._explain(error, field, wanted)
        return info.sha

    def adapter(self, field: str, wanted: Wanted) -> Loadable | FieldError | None:
        """As `commit`, of one that vLLM could load."""
        try:
            info = self._info(wanted)
            missing = set(adapters.FILES) - {file.rfilename for file in info.siblings or ()}
            if missing:
                return FieldError(ADAPTERS, f"{wanted.name} is no LoRA adapter: it has no {min(missing)}.")
            config = self._content(wanted.name, adapters.CONFIG, info.sha or "main")  # says so where it is gated
        except OSError as error:
            return self._explain(error, field, wanted)
        try:
            rank = adapters.rank_of(config)
        except ValueError as error:
            return FieldError(ADAPTERS, f"{wanted.name}: {error}.")
        return Loadable(info.sha, rank) if info.sha else None

    def repository(self, field: str, wanted: Wanted) -> Repository | FieldError | None:
        """None: nobody knows."""
        try:
            info = self._info(wanted, files_metadata=True)
            sizes = {file.rfilename: file.size for file in info.siblings or () if isinstance(file.size, int)}
            named = {file.rfilename for file in info.siblings or ()}
            commit = info.sha or "main"
            config = self._content(wanted.name, "config.json", commit) if "config.json" in named else None
        except OSError as error:
            return self._explain(error, field, wanted)
        parameters = info.safetensors.parameters if info.safetensors else {}
        return Repository(commit, config, sizes, dict(parameters))

    def _info(self, wanted: Wanted, **options: bool) -> Any:
        revision = wanted.revision or None
        return self._api.model_info(
            wanted.name, revision=revision, token=self._token, timeout=self._timeout_s, **options
        )

    def _content(self, name: str, file: str, commit: str) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(name, file, revision=commit, endpoint=self._api.endpoint)
        with get_session().stream("GET", url, headers=build_hf_headers(token=self._token)) as answer:
            if answer.status_code != 200:
                answer.read()
                hf_raise_for_status(answer)
            content = b""
            for piece in answer.iter_bytes():
                content += piece
                if len(content) > LARGEST_CONFIG:
                    break
        return content

    def _explain(self, error: OSError, field: str, wanted: Wanted) -> FieldError | None:
        from huggingface_hub.errors import (
            DisabledRepoError,
            GatedRepoError,
            HfHubHTTPError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        name, revision_field = wanted.name, "REVISION"
        if _is_adapter(field):
            field = revision_field = ADAPTERS
        if isinstance(error, GatedRepoError):
            who = "this token's account has no access to it" if self._token else "it needs a token"
            return FieldError(
                TOKEN_FIELD, f"{name} is gated and {who}: ask for access on the model's page, then send that token."
            )
        if isinstance(error, RevisionNotFoundError):
            return FieldError(
                revision_field, f"{name} has no revision {wanted.revision}: name a branch, a tag or a commit of it."
            )
        if isinstance(error, RepositoryNotFoundError):
            hidden = "this token may not see it" if self._token else "it is private and needs a token"
            return FieldError(field, f"The Hugging Face hub has no {name}, or {hidden}.")
        if isinstance(error, DisabledRepoError):
            return FieldError(field, f"{name} is disabled on the Hugging Face hub.")
        if isinstance(error, HfHubHTTPError) and self._token and _status(error) == 401:
            return _bad_token()
        logger.warning("the hub does not tell about %s: %s", name, type(error).__name__)
        return None


_session_lock = threading.Lock()


def _api(endpoint: str, timeout_s: float) -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import get_session

    with _session_lock:
        get_session().timeout = timeout_s  # the library sets none for some of its calls
    return HfApi(endpoint=endpoint.rstrip("/"))


def _bad_token() -> FieldError:
    return FieldError(TOKEN_FIELD, "Hugging Face does not know this token; see huggingface.co/settings/tokens.")


def _status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
