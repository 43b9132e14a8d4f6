"""Requests to the portal. What is not a success is raised as a Failure with its exit code."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from portal_cli.credentials import Credentials
from portal_cli.failures import ExitCode, Failure

_CONNECT_S, _ANSWER_S = 10, 60
_GENERATION_S = 900
_LIMITS = {"insufficient_quota", "rate_limit_exceeded"}


class _Bearer(AuthBase):
    """Set this way, a password in ~/.netrc cannot take the key's place."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Portal:
    """One portal, seen with one key. Without a key (""), for logging in."""

    def __init__(self, credentials: Credentials) -> None:
        self.url = credentials.url
        self._session = requests.Session()
        self._session.auth = _Bearer(credentials.key)
        self._session.headers["User-Agent"] = "portal-cli"

    def ask(self, method: str, path: str, *, generation: bool = False, tries: int = 1, **options: Any) -> Any:
        """The answer's JSON; None where it has no body. `tries` more than one: the request does no harm twice, and is
        sent again when the portal could not be reached."""
        for left in reversed(range(tries)):
            try:
                response = self.send(
                    method, path, timeout=(_CONNECT_S, _GENERATION_S if generation else _ANSWER_S), **options
                )
                break
            except Failure as failure:
                if failure.exit_code != ExitCode.UNREACHABLE or not left:
                    raise
                time.sleep(1)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            raise Failure(f"{self.url} does not answer like a portal ({path} gave no JSON).") from None

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        """Redirects are not followed: a POST would become a GET, and the key would go where the user did not say."""
        options.setdefault("timeout", (_CONNECT_S, _ANSWER_S))
        try:
            response = self._session.request(method, self.url + path, allow_redirects=False, **options)
        except requests.exceptions.SSLError as error:
            raise Failure(
                f"{self.url}: its certificate is not trusted ({_cause(error)}).", ExitCode.UNREACHABLE
            ) from None
        except requests.exceptions.Timeout:
            raise Failure(f"{self.url} does not answer in time.", ExitCode.UNREACHABLE) from None
        except (requests.exceptions.InvalidURL, UnicodeError):
            raise Failure(f"{self.url} is no URL of a portal.", ExitCode.USAGE) from None
        except requests.exceptions.RequestException as error:
            raise Failure(f"{self.url} cannot be reached ({_cause(error)}).", ExitCode.UNREACHABLE) from None
        if response.is_redirect:
            raise Failure(f"{self.url} sends us to {response.headers['location']}: use that as its URL.")
        if response.status_code >= 400:
            raise refusal(response)
        return response

    def stream(self, method: str, path: str, *, silence_s: float = _GENERATION_S, **options: Any) -> Iterator[bytes]:
        """The answer piece by piece. `silence_s`: how long nothing may come. Closed early, the portal sees us leave."""
        response = self.send(method, path, stream=True, timeout=(_CONNECT_S, silence_s), **options)
        with response:
            try:
                # What has come; requests' own ways wait for more of it, unless the answer is chunked.
                while piece := response.raw.read1(65536, decode_content=True):
                    yield piece
            except (HTTPError, OSError) as error:
                raise Failure(f"The connection to {self.url} broke ({_cause(error)}).", ExitCode.UNREACHABLE) from None

    def pages(self, path: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Each entry of a list, page after page."""
        answer = self.ask("GET", path, params={"limit": 200, **parameters})
        while True:
            yield from answer["results"]
            if not answer.get("next"):
                return
            # The rest of the address is ours: behind a proxy the portal may not know its own.
            answer = self.ask("GET", path, params=urlsplit(answer["next"]).query)


def part(text: str) -> str:
    """Text as one part of a path."""
    return quote(text, safe="")


def refusal(response: requests.Response) -> Failure:
    status = response.status_code
    try:
        body = response.json()
    except (ValueError, requests.exceptions.RequestException):
        body = None
    return Failure(_said(body) or f"The portal answers {status} {response.reason}.", exit_code_of(status, body), status)


def exit_code_of(status: int, body: Any) -> ExitCode:
    error = body.get("error") if isinstance(body, dict) else None
    if status in (402, 429) or (isinstance(error, dict) and error.get("code") in _LIMITS):
        return ExitCode.LIMIT
    by_status = {401: ExitCode.NOT_ALLOWED, 403: ExitCode.NOT_ALLOWED, 404: ExitCode.NOT_FOUND}
    gone = {502: ExitCode.UNREACHABLE, 503: ExitCode.UNREACHABLE, 504: ExitCode.UNREACHABLE}
    return (by_status | gone).get(status, ExitCode.FAILED)


def _said(body: Any) -> str:
    """The portal's own words, in each of the shapes it has for them."""
    if not isinstance(body, dict):
        return ""
    error = body.get("error")
    if isinstance(error, dict):
        return str(error.get("message", ""))
    if isinstance(body.get("detail"), str):
        return body["detail"]
    fields = [
        f"{field}: {' '.join(map(str, told)) if isinstance(told, list) else told}" for field, told in body.items()
    ]
    return "; ".join(fields)


def _cause(error: Exception) -> str:
    """The innermost words: requests wraps urllib3, which wraps the system's error."""
    reason = error.args[0] if error.args else error
    reason = getattr(reason, "reason", reason)
    inner = getattr(reason, "__cause__", None) or reason
    return str(getattr(inner, "strerror", None) or getattr(inner, "verify_message", None) or inner).rpartition(": ")[2]
