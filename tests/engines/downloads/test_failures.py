"""What goes wrong, by the errors that the real client and the system raise."""

import errno
import socket

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status

from engines.causes import KNOWN
from engines.downloads.failures import Broken, CutShort, NoRoom, failure_of

SECRET = "https://cdn.example/x?Signature=abcdef"


def raised(act, *args, **options):
    with pytest.raises((httpx2.TransportError, HfHubHTTPError)) as error:
        act(*args, **options)
    return error.value


def answer(status, **headers):
    request = httpx2.Request("GET", SECRET)
    return raised(hf_raise_for_status, httpx2.Response(status, headers=headers, request=request))


def closed_port():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return closed.getsockname()[1]


@pytest.mark.parametrize(
    ("scheme", "port", "words"),
    [("http", closed_port, "the connection is refused"), ("https", None, "the encrypted connection failed")],
)
def test_a_hub_that_cannot_be_reached_says_why_and_may_come_back(hub, scheme, port, words):
    port = port() if port else hub.url.rpartition(":")[2]
    failure = failure_of(raised(httpx2.get, f"{scheme}://127.0.0.1:{port}"))
    assert (failure.code, failure.passes, words in failure.words) == ("hub_unreachable", True, True)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_a_hub_in_trouble_may_recover(status):
    failure = failure_of(answer(status))
    assert (failure.code, failure.passes) == ("hub_unreachable", True)
    assert str(status) in failure.words


@pytest.mark.parametrize(
    ("status", "headers", "code"),
    [
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "token_invalid"),
        (401, {"X-Error-Code": "GatedRepo"}, "model_gated"),
        (403, {"X-Error-Code": "GatedRepo"}, "model_gated"),
        (403, {}, "model_gated"),
        (404, {"X-Error-Code": "RepoNotFound"}, "model_not_found"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "model_not_found"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, "model_not_found"),
        (404, {"X-Error-Code": "EntryNotFound"}, "weights_broken"),
        (416, {}, "weights_broken"),
        (418, {}, "hub_unreachable"),
    ],
)
def test_what_it_says_clearly_does_not_pass(status, headers, code):
    error = answer(status, **headers)
    assert isinstance(error, HfHubHTTPError)
    assert (failure_of(error).code, failure_of(error).passes) == (code, False)


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EACCES, "cache_not_writable"),
     (errno.EROFS, "cache_not_writable"), (errno.ELOOP, "cache_not_writable")],
)  # fmt: skip
def test_a_disk_says_so_by_its_number(number, code):
    assert failure_of(OSError(number, "text")).code == code


def test_no_address_that_is_a_key_for_a_while_is_handed_on():
    for status in (401, 403, 404, 416, 429, 500):
        assert "Signature" not in failure_of(answer(status)).words
    assert "Signature" not in failure_of(httpx2.ConnectError(f"for {SECRET}")).words


def test_each_has_a_cause_that_people_can_read():
    known = {cause.code for cause in KNOWN}
    errors = [answer(status) for status in (401, 403, 404, 416, 429)]
    errors += [Broken("x"), CutShort(), NoRoom("x"), OSError(errno.ENOSPC, ""), httpx2.ReadError("")]
    assert {failure_of(error).code for error in errors} <= known


def test_what_nobody_foresaw_is_not_guessed():
    assert failure_of(ValueError("x")) is None
    assert failure_of(OSError("no number")) is None
